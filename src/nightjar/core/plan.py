"""The whole of a pipeline, checked before any work begins."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pydantic

from nightjar.core.contract import Column, Contract, load_contract
from nightjar.core.documents import Document, Location, load
from nightjar.core.errors import Fault, SpecError, UsageError, near
from nightjar.core.expressions import Expression, ExpressionError, in_order, parse
from nightjar.core.pipeline import CANDIDATES, METRICS, CleanStep, Pipeline, Publish
from nightjar.core.project import Project

TEXT_STEPS = ("trim", "upper", "lower", "replace")
VALUE_STEPS = ("scale", "blank_outside", "fill")
MODEL_VERSION = "model_version"


@dataclass(frozen=True)
class Plan:
    """A pipeline with its contracts and everything that could be decided without data.

    `derive_before` and `derive_after` are the derived columns, in order, that need the base rows
    alone and those that need joined columns.
    """

    spec: Pipeline
    contracts: Mapping[str, Contract]
    scores: Contract
    derive_before: tuple[tuple[str, str], ...]
    derive_after: tuple[tuple[str, str], ...]
    document: Document

    def contract_of(self, source: str) -> Contract:
        return self.contracts[source]

    def with_candidates(self, names: Collection[str]) -> Plan:
        """The same plan with these candidates alone.

        Raises:
            UsageError: there is no candidate of one of the names.
        """
        for name in names:
            if name not in self.spec.candidates:
                problem = f"no candidate is called {name!r}; {near(name, self.spec.candidates)}"
                raise UsageError(problem, found=name)
        kept = {n: c for n, c in self.spec.candidates.items() if n in names}
        return replace(self, spec=self.spec.model_copy(update={"candidates": kept}))

    @property
    def published_columns(self) -> tuple[str, ...]:
        """Columns of a release that come from the feature rows, in the contract's order."""
        made = made_columns(self.spec)
        return tuple(name for name in self.scores.names if name not in made)


def reason_columns(rank: int) -> tuple[str, str, str]:
    """The columns of a score's reason of this rank, from 1: feature, its value, its effect."""
    return f"reason_{rank}", f"reason_{rank}_value", f"reason_{rank}_effect"


def probability_column(publish: Publish) -> str:
    """With several classes: the column that says how probable the published one is."""
    return f"{publish.score}_probability"


def made_columns(spec: Pipeline) -> dict[str, str]:
    """The columns of a release that scoring makes: by name, 'number' or 'string'."""
    publish = spec.publish
    made = {publish.score: "string" if spec.label.classes else "number", MODEL_VERSION: "string"}
    if spec.label.classes:
        made[probability_column(publish)] = "number"
    for rank in range(1, publish.reasons + 1):
        made |= dict(zip(reason_columns(rank), ("string", "string", "number"), strict=True))
    return made


def load_plan(project: Project, name: str) -> Plan:
    """The plan of one pipeline.

    Raises:
        UsageError: there is no such pipeline.
        SpecError: with every fault of the pipeline and of the contracts that it uses.
    """
    return _plan(project, project.pipeline_file(name))


def check_project(project: Project) -> tuple[list[Plan], list[Fault]]:
    """Every pipeline and every contract: the plans that hold, and all faults of the others."""
    plans: list[Plan] = []
    faults: set[Fault] = set()
    for name in project.contract_names():
        try:
            load_named_contract(project, name)
        except SpecError as error:
            faults.update(error.faults)
    for name in project.pipeline_names():
        try:
            plans.append(_plan(project, project.pipeline_file(name)))
        except SpecError as error:
            faults.update(error.faults)
    publishers: dict[str, str] = {}
    for plan in plans:
        other = publishers.setdefault(plan.scores.dataset, plan.spec.name)
        if other != plan.spec.name:
            problem = f"pipeline '{other}' publishes {plan.scores.dataset} too"
            fix = "a published dataset has one pipeline: give it a contract of its own"
            faults.add(plan.document.fault(("publish", "contract"), problem, fix))
    return plans, sorted(faults)


def load_named_contract(project: Project, name: str) -> Contract:
    """The contract in `schemas/NAME.odcs.yaml`, which must describe the dataset NAME."""
    path = project.contract_file(name)
    shown = path.relative_to(project.root).as_posix()
    contract = load_contract(path, shown)
    if contract.dataset != name:
        problem = f"describes dataset '{contract.dataset}'; the file's name says '{name}'"
        raise SpecError(faults=[Fault(shown, 1, problem, "make them the same")])
    return contract


def _plan(project: Project, path: Path) -> Plan:
    document = load(path, path.relative_to(project.root).as_posix())
    try:
        spec = Pipeline.model_validate(document.data)
    except pydantic.ValidationError as error:
        raise SpecError(faults=[_pydantic_fault(document, e) for e in error.errors()]) from error
    return _Checker(project, document, spec).plan()


def _pydantic_fault(document: Document, error: object) -> Fault:
    assert isinstance(error, dict)
    at = _in_file(tuple(error["loc"]))
    kind, name = error["type"], str(at[-1]) if at else ""
    if kind == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        return document.fault((*at, "trainer"), f"no trainer '{tag}'", near(tag, CANDIDATES))
    if kind == "union_tag_not_found":
        return document.fault(at, "'trainer' is missing", near("", CANDIDATES))
    if kind == "extra_forbidden":
        model: type[pydantic.BaseModel] | None = _model_at(tuple(error["loc"][:-1]))
        hint = near(name, model.model_fields) if model else ""
        return document.fault(at, f"unknown key '{name}'", hint)
    if kind == "missing":
        return document.fault(at, f"'{name}' is missing")
    found = f" (found {error['input']!r})" if isinstance(error["input"], str | int | float) else ""
    return document.fault(
        at, f"{'.'.join(map(str, at))}: {error['msg'].removeprefix('Value error, ')}{found}"
    )


def _in_file(at: Location) -> Location:
    """Where in the file; pydantic puts the trainer's name below that of a candidate."""
    return (*at[:2], *at[3:]) if at[:1] == ("candidates",) else at


def _model_at(at: Location) -> type[pydantic.BaseModel] | None:
    """The spec model that stands at a location of a pipeline file."""
    annotation: object = Pipeline
    if at[:1] == ("candidates",) and len(at) > 2:
        annotation, at = CANDIDATES[str(at[2])], at[3:]
    for step in at:
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            info = annotation.model_fields.get(str(step))
            annotation = info.annotation if info else None
        else:
            inner = [a for a in getattr(annotation, "__args__", ()) if a not in (Ellipsis, str)]
            annotation = inner[-1] if inner else None
        options = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
        if len(options) == 1 and type(None) in getattr(annotation, "__args__", ()):
            annotation = options[0]
    is_model = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    return annotation if is_model else None  # type: ignore[return-value]


class _Checker:
    """Holds a spec against its contracts; collects faults."""

    def __init__(self, project: Project, document: Document, spec: Pipeline) -> None:
        self.project = project
        self.document = document
        self.spec = spec
        self.faults: list[Fault] = []

    def fault(self, at: Location, problem: str, suggestion: str = "") -> None:
        self.faults.append(self.document.fault(at, problem, suggestion))

    def plan(self) -> Plan:
        spec = self.spec
        if spec.name != self.document.path.stem:
            self.fault(
                ("name",),
                f"pipeline '{spec.name}' stands in {self.document.name}",
                "a pipeline's file has its name",
            )
        contracts = {
            source: contract
            for source, declared in spec.sources.items()
            if (contract := self._contract(("sources", source, "contract"), declared.contract))
        }
        scores = self._contract(("publish", "contract"), spec.publish.contract)
        self._clean(contracts)
        known = set(spec.sources)
        for at, source in [(("features", "base"), spec.features.base)] + [
            (("features", "joins", i, "source"), j.source)
            for i, j in enumerate(spec.features.joins)
        ]:
            if source not in known:
                self.fault(at, f"no source is called '{source}'", near(source, known))
        if self.faults or scores is None:
            raise SpecError(faults=self.faults)
        before, after = self._features(contracts, scores)
        if self.faults:
            raise SpecError(faults=self.faults)
        return Plan(spec, contracts, scores, before, after, self.document)

    def _contract(self, at: Location, name: str) -> Contract | None:
        if name not in self.project.contract_names():
            hint = near(name, self.project.contract_names())
            self.fault(at, f"no contract schemas/{name}.odcs.yaml", hint)
            return None
        try:
            return load_named_contract(self.project, name)
        except SpecError as error:
            self.faults.extend(error.faults)
            return None

    def _clean(self, contracts: Mapping[str, Contract]) -> None:
        order = {**dict.fromkeys(TEXT_STEPS, 0), **dict.fromkeys(VALUE_STEPS, 1), "deduplicate": 2}
        for source, steps in self.spec.clean.items():
            if source not in self.spec.sources:
                self.fault(
                    ("clean", source),
                    f"no source is called '{source}'",
                    near(source, self.spec.sources),
                )
                continue
            contract = contracts.get(source)
            if contract is None:
                continue
            for i, step in enumerate(steps):
                at: Location = ("clean", source, i)
                if i and order[steps[i - 1].kind] > order[step.kind]:
                    problem = f"'{step.kind}' cannot come after '{steps[i - 1].kind}'"
                    self.fault(at, problem, "text steps, then value steps, then deduplicate")
                self._clean_step(at, step, contract)

    def _clean_step(self, at: Location, step: CleanStep, contract: Contract) -> None:
        for name in step.columns:
            if name not in contract.names:
                self.fault(
                    at, f"{contract.dataset} has no column '{name}'", near(name, contract.names)
                )
            elif step.kind in ("scale", "blank_outside") and (
                not contract.column(name).type.is_number
            ):
                self.fault(
                    at, f"'{step.kind}' needs a number; {name} is a {contract.column(name).type}"
                )
            elif step.scale and contract.column(name).type.is_whole:
                if not step.scale[name].is_integer():
                    self.fault(
                        at,
                        f"scale {name}: {step.scale[name]:g} would cut off digits of a "
                        f"{contract.column(name).type}",
                        "use a whole factor, or make the column a double or decimal",
                    )
            elif step.kind == "fill" and step.fill is not None:
                self._fill(at, name, contract.column(name), step.fill[name])
        if step.kind == "deduplicate" and not contract.primary_key:
            self.fault(
                at,
                f"deduplicate needs a primary key, and {contract.dataset} has none",
                f"mark it in schemas/{contract.dataset}.odcs.yaml",
            )

    def _fill(self, at: Location, name: str, column: Column, value: object) -> None:
        wanted: type | tuple[type, ...] = {"string": str, "boolean": bool}.get(
            column.type.name, (int, float)
        )
        if column.type.name in ("date", "timestamp"):
            self.fault(at, f"fill cannot set {name}, a {column.type}")
        elif (
            not isinstance(value, wanted)
            or (isinstance(value, bool) and wanted is not bool)
            or (column.type.is_whole and not isinstance(value, int))
        ):
            self.fault(at, f"fill {name}: {value!r} is no {column.type}")

    # -- features ------------------------------------------------------------------------------

    def _features(
        self, contracts: Mapping[str, Contract], scores: Contract
    ) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        spec, features = self.spec, self.spec.features
        base = contracts[features.base]
        if not spec.sources[features.base].nightly:
            self.fault(
                ("features", "base"),
                f"'{features.base}' needs {{ds}} in its path",
                "the base rows are what one night is made of",
            )
        if not base.primary_key:
            self.fault(
                ("features", "base"),
                f"contract '{base.dataset}' has no primary key",
                "a score must name its row: mark primaryKey columns",
            )
        early = set(base.names) - base.after_event
        late = base.after_event
        derived = self._parsed(features.derive)
        joined = self._joins(contracts, early | set(derived))
        for name in sorted(derived.keys() & (set(base.names) | joined)):
            self.fault(("features", "derive", name), f"'{name}' is already a column")
        available = early | joined | set(derived)
        for name, expression in sorted(derived.items()):
            at: Location = ("features", "derive", name)
            self._readable(at, expression.columns, available, late)
        order: list[str] = []
        try:
            order = in_order(derived)
        except ExpressionError as error:
            self.fault(("features", "derive"), str(error))
        before: list[str] = []
        for name in order:
            if derived[name].columns <= early | set(before):
                before.append(name)
        self._as_of(early | set(before), late)
        for i, join in enumerate(features.joins):
            for name in join.on:
                here: Location = ("features", "joins", i, "on")
                self._readable(here, [name], early | set(before), late)
        for group in ("numeric", "categorical"):
            for i, name in enumerate(getattr(features, group)):
                self._readable(("features", group, i), [name], available, late)
        self._label(base, available)
        metrics = METRICS[spec.label.kind]
        if spec.gate.metric not in metrics:
            problem = f"'{spec.gate.metric}' does not measure {spec.label.kind} labels"
            self.fault(("gate", "metric"), problem, f"use one of: {', '.join(metrics)}")
        for name in self.spec.gate.slices:
            if name not in features.categorical:
                self.fault(
                    ("gate", "slices"),
                    f"slice '{name}' is no categorical feature",
                    near(name, features.categorical),
                )
        if self.spec.split.by not in early | set(before):
            self.fault(
                ("split", "by"),
                f"no column '{self.spec.split.by}' in the base rows",
                near(self.spec.split.by, early | set(before)),
            )
        self._candidates()
        self._publish(scores, base, available, late)
        after = [name for name in order if name not in before]
        texts = features.derive
        return tuple((n, texts[n]) for n in before), tuple((n, texts[n]) for n in after)

    def _parsed(self, texts: Mapping[str, str]) -> dict[str, Expression]:
        parsed = {}
        for name, text in texts.items():
            try:
                parsed[name] = parse(text)
            except ExpressionError as error:
                self.fault(("features", "derive", name), f"'{name}' {error}")
        return parsed

    def _joins(self, contracts: Mapping[str, Contract], keys: set[str]) -> set[str]:
        joined: set[str] = set()
        for i, join in enumerate(self.spec.features.joins):
            at: Location = ("features", "joins", i)
            contract = contracts[join.source]
            for name in (*join.on, *join.columns, *([join.at] if join.at else [])):
                if name not in contract.names:
                    self.fault(
                        at, f"{contract.dataset} has no column '{name}'", near(name, contract.names)
                    )
                elif name in contract.after_event:
                    self.fault(
                        at,
                        f"'{name}' of {contract.dataset} is known only after the event "
                        "(knownAfterEvent)",
                        "a prediction made before it must not read it",
                    )
            if join.at is None and set(join.on) != set(contract.primary_key):
                shown = ", ".join(contract.primary_key) or "none"
                self.fault(
                    (*at, "on"),
                    f"a join on ({', '.join(join.on)}) may repeat rows: the "
                    f"primary key of {contract.dataset} is ({shown})",
                )
            if (
                join.at
                and join.at in contract.names
                and (contract.column(join.at).type.name != "timestamp")
            ):
                self.fault((*at, "at"), f"column '{join.at}' is no timestamp")
            for name in join.columns.values():
                base_names = contracts[self.spec.features.base].names
                if name in joined or name in base_names:
                    self.fault(
                        (*at, "columns"),
                        f"'{name}' is already a column",
                        f"rename it: columns: {{{name}: {join.source}_{name}}}",
                    )
                joined.add(name)
        return joined

    def _readable(
        self, at: Location, names: Iterable[str], available: set[str], late: frozenset[str]
    ) -> None:
        for name in sorted(names):
            if name in late:
                self.fault(
                    at,
                    f"'{name}' is known only after the event (knownAfterEvent)",
                    "a prediction made before it must not read it",
                )
            elif name not in available:
                self.fault(at, f"no column '{name}'", near(name, available))

    def _as_of(self, available: set[str], late: frozenset[str]) -> None:
        at: Location = ("features", "as_of")
        try:
            expression = parse(self.spec.features.as_of)
        except ExpressionError as error:
            self.fault(at, f"as_of {error}")
            return
        self._readable(at, expression.columns, available, late)
        if not expression.columns:
            self.fault(at, "as_of reads no column: it must say when each row is predicted")

    def _label(self, base: Contract, available: set[str]) -> None:
        at: Location = ("label", "expr")
        if self.spec.label.name in available | set(base.names):
            self.fault(("label", "name"), f"'{self.spec.label.name}' is already a column")
        try:
            columns = parse(self.spec.label.expr).columns
        except ExpressionError as error:
            self.fault(at, f"label {error}")
            return
        self._readable(at, columns, set(base.names), frozenset())
        if self.spec.label.weight is None:
            return
        at = ("label", "weight")
        try:
            columns = parse(self.spec.label.weight).columns
        except ExpressionError as error:
            self.fault(at, f"weight {error}")
            return
        self._readable(at, columns, set(base.names), frozenset())

    def _candidates(self) -> None:
        categorical = self.spec.features.categorical
        for name, candidate in self.spec.candidates.items():
            network = getattr(candidate, "network", None)
            for feature in network.embeddings if network else ():
                if feature not in categorical:
                    self.fault(
                        ("candidates", name, "network", "embeddings", feature),
                        f"candidate '{name}': no categorical feature is called '{feature}'",
                        near(feature, categorical),
                    )

    def _publish(
        self, scores: Contract, base: Contract, available: set[str], late: frozenset[str]
    ) -> None:
        publish = self.spec.publish
        at: Location = ("publish", "contract")
        made = made_columns(self.spec)
        columns = {c.name: c for c in scores.columns}
        for name, kind in made.items():
            if name not in columns:
                self.fault(
                    at,
                    f"contract '{scores.dataset}' has no column '{name}' ({kind})",
                    near(name, scores.names),
                )
            elif columns[name].type.is_number != (kind == "number"):
                self.fault(
                    at, f"column '{name}' of '{scores.dataset}' is {columns[name].type}: not {kind}"
                )
        self._readable(at, [n for n in scores.names if n not in made], available, late)
        if scores.primary_key != base.primary_key:
            self.fault(
                at,
                f"the primary key of {scores.dataset} is "
                f"({', '.join(scores.primary_key)}); of the base rows "
                f"({', '.join(base.primary_key)})",
                "one score a row: make them the same",
            )
        for name in publish.sort:
            if name not in scores.names:
                self.fault(("publish", "sort"), f"no column '{name}'", near(name, scores.names))
        if re.search(r"\bds\b", " ".join(scores.names)):
            self.fault(at, "column 'ds' is the partition of every release; rename it")
