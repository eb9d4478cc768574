"""One family of errors: each has a stable code, an exit status and structured parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class NightjarError(Exception):
    """Base of every error that Nightjar raises on purpose.

    `code` is stable and is what tests and scripts look at; the prose may change.
    `exit_status` is the process's: 2 the request or a file of the project is wrong, 3 the data
    was refused, 4 something that must exist first does not, 5 another run got there first, 6 a
    person took this very result away.
    """

    code: ClassVar[str] = "NIGHTJAR"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def as_dict(self) -> dict[str, Any]:
        """The error as plain values, for `--json` and for run records."""
        return {"code": self.code, "message": self.message, **self.details}


def _rebuild(kind: type[NightjarError], message: str, details: dict[str, Any]) -> NightjarError:
    return kind(message, **details)


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong in a file of the project."""

    file: str
    line: int
    problem: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f"\n    {self.suggestion}" if self.suggestion else ""
        return f"{self.file}:{self.line}: {self.problem}{hint}"


class SpecError(NightjarError):
    """Pipelines or contracts cannot be used; holds every fault, not only the first."""

    code = "SPEC_INVALID"
    exit_status = 2

    def __init__(self, message: str = "", *, faults: Iterable[Fault] = ()) -> None:
        self.faults = tuple(sorted(set(faults)))
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        text = message or f"{count} in the project's files:\n" + "\n".join(map(str, self.faults))
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_spec_error, (self.message, self.faults)

    def as_dict(self) -> dict[str, Any]:
        faults = [
            {"file": f.file, "line": f.line, "problem": f.problem, "suggestion": f.suggestion}
            for f in self.faults
        ]
        return {"code": self.code, "message": self.message, "faults": faults}


def _rebuild_spec_error(message: str, faults: tuple[Fault, ...]) -> SpecError:
    return SpecError(message, faults=faults)


class UsageError(NightjarError):
    """A value from the command line or a trigger is not what it must be."""

    code = "USAGE"
    exit_status = 2


class EnvironmentFault(NightjarError):
    """The machine or the settings of Spark cannot do what is asked."""

    code = "ENVIRONMENT"
    exit_status = 2


class MissingInput(NightjarError):
    """A source file is not there."""

    code = "INPUT_MISSING"
    exit_status = 3


class EmptyInput(NightjarError):
    """A source file holds no bytes, or not even a header."""

    code = "INPUT_EMPTY"
    exit_status = 3


class HeaderMismatch(NightjarError):
    """A source file's columns are not those of its contract."""

    code = "INPUT_COLUMNS"
    exit_status = 3


class UnreadableInput(NightjarError):
    """A source file's bytes are not in the declared format."""

    code = "INPUT_UNREADABLE"
    exit_status = 3


class OversizedInput(NightjarError):
    """A source file, unpacked, or one record of it is larger than the source allows."""

    code = "INPUT_TOO_LARGE"
    exit_status = 3


class ForeignInput(NightjarError):
    """A source file's name leads, through a link, out of the landing folder."""

    code = "INPUT_OUTSIDE"
    exit_status = 3


class UnsettledInput(NightjarError):
    """A source file is still being written."""

    code = "INPUT_UNSETTLED"
    exit_status = 3


class RepeatedInput(NightjarError):
    """The same bytes were delivered twice, under two names."""

    code = "INPUT_REPEATED"
    exit_status = 3


class AccountingError(NightjarError):
    """Rows read are not the sum of the rows kept, quarantined and deduplicated."""

    code = "ACCOUNTING"
    exit_status = 3


class GateFailed(NightjarError):
    """A critical check of a contract failed; nothing was published."""

    code = "GATE_FAILED"
    exit_status = 3


class RepairRefused(NightjarError):
    """Repaired rows cannot go into their night as they are."""

    code = "REPAIR_REFUSED"
    exit_status = 2


class TrainingRefused(NightjarError):
    """The training data cannot give a model that means anything."""

    code = "TRAINING_REFUSED"
    exit_status = 3


class TrainingFailed(NightjarError):
    """A training that was well asked for broke off; what it had done is kept for the next try."""

    code = "TRAINING_FAILED"
    exit_status = 4


class GoldenMismatch(NightjarError):
    """A model does not reproduce the scores recorded when it was trained."""

    code = "MODEL_CHANGED"
    exit_status = 3


class UntrustedModel(NightjarError):
    """A model's files name code that no trainer of ours writes; nothing of it was loaded."""

    code = "MODEL_UNTRUSTED"
    exit_status = 3


class NotThereYet(NightjarError):
    """Something that an earlier step makes does not exist yet."""

    code = "NOT_THERE_YET"
    exit_status = 4


class DamagedRelease(NightjarError):
    """Released files are not those that were published."""

    code = "RELEASE_DAMAGED"
    exit_status = 3


class StorageFault(NightjarError):
    """The medium of the releases failed or refused; what was visible is unharmed."""

    code = "STORAGE"
    exit_status = 4


class Conflict(NightjarError):
    """Another run changed what this run stood on."""

    code = "CONFLICT"
    exit_status = 5


class Withdrawn(NightjarError):
    """This very result was released and rolled back; only a person can want it back."""

    code = "WITHDRAWN"
    exit_status = 6


INPUT_ERRORS: dict[str, type[NightjarError]] = {
    kind.code: kind
    for kind in (
        MissingInput,
        EmptyInput,
        HeaderMismatch,
        UnreadableInput,
        OversizedInput,
        ForeignInput,
        UnsettledInput,
        RepeatedInput,
    )
}


def combined(errors: Sequence[NightjarError], of: int) -> NightjarError:
    """One error that says what is wrong with some of `of` files; of their kind, if it is one."""
    if len(errors) == 1:
        return errors[0]
    shown = "\n".join(f"- {e.message}" for e in errors[:10])
    more = f"\n- and {len(errors) - 10} more" if len(errors) > 10 else ""
    kinds = {type(e) for e in errors}
    kind = kinds.pop() if len(kinds) == 1 else UnreadableInput
    return kind(f"{len(errors)} of {of} files cannot be taken:\n{shown}{more}")


def near(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the known name nearest to `name`, or lists the known names.

    >>> near("flihgts", ["flights", "weather"])
    "did you mean 'flights'?"
    >>> near("c", ["C", "penalty"])
    "did you mean 'C'?"
    >>> near("zzz", ["b", "a"])
    'known: a, b'
    """
    names = sorted(set(known))
    close = [n for n in names if n.casefold() == name.casefold()]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(names) if names else "none is known"
