"""What the driver tells a rank: plain values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightjar.core.pipeline import HorovodKerasCandidate, Label

Group = tuple[str, int, int]
"""A row group: file, place in the file, rows."""


@dataclass(frozen=True)
class Job:
    """One training. `folder` is storage that every rank sees; `run` a name of this attempt's own.

    `learnt` and `held_out` have the row groups of each rank. `categories` are the known values of
    each categorical feature; codes are their places, and one more. `class_weights` has one for each
    class, or none where all rows count alike. A number is learnt standardised; `mean` and
    `deviation` give its unit back. `threads` is for the CPUs of one rank.
    """

    candidate: HorovodKerasCandidate
    label: Label
    folder: str
    run: str
    numeric: tuple[str, ...]
    categories: Mapping[str, int]
    learnt: Sequence[Sequence[Group]]
    held_out: Sequence[Sequence[Group]]
    class_weights: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    threads: int = 1

    @property
    def steps(self) -> int:
        """Steps of an epoch: those of the rank that has most rows. Others pad with weight zero."""
        return self._batches(self.learnt)

    @property
    def held_out_steps(self) -> int:
        return self._batches(self.held_out)

    def _batches(self, shares: Sequence[Sequence[Group]]) -> int:
        most = max((sum(rows for *_, rows in share) for share in shares), default=0)
        return -(-most // self.candidate.batch_size)


def shares(groups: Sequence[Group], ranks: int) -> list[list[Group]]:
    """The row groups of each rank: the largest first, each to the rank with the fewest rows.

    >>> shares([("a", 0, 5), ("a", 1, 3), ("b", 0, 4)], 2)
    [[('a', 0, 5)], [('b', 0, 4), ('a', 1, 3)]]
    """
    found: list[list[Group]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for group in sorted(groups, key=lambda group: (-group[2], group)):
        lightest = held.index(min(held))
        found[lightest].append(group)
        held[lightest] += group[2]
    return found
