"""The commands that account for what was delivered, and that look after the quarantine."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightjar.answers import answer, errors
from nightjar.core.errors import NotThereYet, UsageError, near
from nightjar.core.project import Project
from nightjar.options import (
    AsJson,
    Ds,
    MaybeDs,
    PipelineName,
    Profile,
    ProjectFolder,
    Warehouse,
)

if TYPE_CHECKING:
    from nightjar.core.plan import Plan
    from nightjar.core.records import Record

Dataset = Annotated[str, typer.Option("--dataset", help="A source of the pipeline.")]
MaybeDataset = Annotated[str | None, typer.Option("--dataset", help="One source alone.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only records that break this rule.")]
Unmask = Annotated[bool, typer.Option("--unmask", help="Show personal data too.")]


def add_to(app: typer.Typer, epilog: str) -> None:
    """Add the commands of this module to the application."""
    app.command(epilog=epilog)(accounting)
    group = typer.Typer(
        name="quarantine",
        help="Rows that broke a rule: list, show, export, replay them, and who did so.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for name, command in (
        ("list", list_), ("show", show), ("export", export), ("replay", replay),
        ("history", history),
    ):  # fmt: skip
        group.command(name, epilog=epilog)(command)
    app.add_typer(group)


def accounting(
    pipeline: PipelineName,
    ds: MaybeDs = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """What became of every record of every file of a night; by default of the newest one."""
    with errors(as_json):
        from nightjar.core.accounting import account, nights_read
        from nightjar.core.plan import load_plan
        from nightjar.core.records import RecordBook

        found = Project.find(project, warehouse)
        plan, book = load_plan(found, pipeline), RecordBook(found.warehouse, pipeline)
        nights = nights_read(book, plan)
        if ds is None and not nights:
            raise NotThereYet(
                f"nothing was read for {pipeline} yet: nightjar run {pipeline} --ds D"
            )
        told = account(book, plan, ds or nights[-1])
        kinds = ("bytes", "read", "clean", "quarantined", "deduplicated", "discarded", "unparsable")
        rows = [f.as_dict() for f in told.files]
        lines = [
            ["file", *kinds],
            *[[r["file"], *["?" if r[k] is None else f"{r[k]:,}" for k in kinds]] for r in rows],
        ]
        text = [f"{pipeline} {told.ds}", *_table(lines)]
        text += [f"not counted: {line}" for line in told.uncounted]
        data = {"ds": str(told.ds), "files": rows, "uncounted": told.uncounted}
        answer(as_json, data, "\n".join(text))


def list_(
    pipeline: PipelineName,
    ds: MaybeDs = None,
    dataset: MaybeDataset = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """The nights and datasets that have rows in quarantine, and the rules that these break."""
    with errors(as_json):
        plan, found = _plan(project, warehouse, pipeline)
        rows = []
        for record in _cleaned(found, plan, dataset):
            held = [record.counts["quarantined"], record.counts.get("discarded", 0)]
            if any(held) and ds in (None, _date(record)):
                rows.append(
                    {
                        "ds": record.ds,
                        "dataset": record.step.removeprefix("clean."),
                        "read": record.counts["read"],
                        "quarantined": held[0],
                        "discarded": held[1],
                        "rules": record.details.get("rules_broken", {}),
                    }
                )
        lines = [["night", "dataset", "read", "quarantined", "discarded", "rules"]]
        for r in rows:
            rules = ", ".join(f"{n:,} x {rule}" for rule, n in r["rules"].items())
            counts = [f"{r[k]:,}" for k in ("read", "quarantined", "discarded")]
            lines.append([r["ds"], r["dataset"], *counts, rules])
        text = "\n".join(_table(lines)) if rows else "nothing is in quarantine"
        answer(as_json, {"quarantine": rows}, text)


def show(
    pipeline: PipelineName,
    ds: Ds,
    dataset: Dataset,
    rule: Rule = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many records.")] = 20,
    unmask: Unmask = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Records in quarantine, with every rule that they break and their original texts."""
    with errors(as_json):
        import heapq

        plan, found = _plan(project, warehouse, pipeline)
        record = _require(found, plan, ds, dataset, rule)
        from nightjar.engine.quarantine import refused

        pii = frozenset[str]() if unmask else plan.contract_of(dataset).pii
        held = refused(found, record, rule=rule)
        first = heapq.nsmallest(limit, held, key=lambda row: row.key)
        rows = [row.masked(pii) for row in first]
        total = record.counts["quarantined"]
        if rule is not None:
            total = record.details.get("rules_broken", {}).get(rule, 0)
        text = [f"{dataset} {ds}: {total:,} in quarantine" + (f" for {rule}" if rule else "")]
        for row in rows:
            text.append(f"\n{row.file} record {row.record}")
            for b in row.broken:
                column = f" [{b['column']}]" if b["column"] else ""
                seen = "nothing" if b["found"] is None else repr(b["found"])
                text.append(f"  {b['rule']}{column}: found {seen}; expected {b['expected']}")
            values = row.values or {"text": row.text}
            text.append("  " + ", ".join(f"{n}={v!r}" for n, v in values.items() if v is not None))
        if total > len(rows):
            text.append(f"\nand {total - len(rows):,} more (--limit)")
        listed = [
            {"file": r.file, "record": r.record, "broken": r.broken, "original": r.values,
             "text": r.text}
            for r in rows
        ]  # fmt: skip
        answer(as_json, {"quarantined": total, "rows": listed}, "\n".join(text))


def export(
    pipeline: PipelineName,
    ds: Ds,
    dataset: Dataset,
    to: Annotated[Path, typer.Option("--to", help="A new file, .csv or .parquet.")],
    rule: Rule = None,
    unmask: Unmask = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Write a night's quarantined records to a file, to be repaired there and replayed."""
    with errors(as_json):
        plan, found = _plan(project, warehouse, pipeline)
        record = _require(found, plan, ds, dataset, rule)
        from nightjar.engine import edits
        from nightjar.engine.quarantine import in_order, refused

        digests = {f["file"]: f["sha256"] for f in record.details["files"]}
        held = in_order(refused(found, record, rule=rule))
        count = edits.export(held, to, plan.contract_of(dataset), digests, unmask=unmask)
        answer(as_json, {"rows": count, "file": str(to)}, f"{count:,} record(s) in {to}")


def replay(
    pipeline: PipelineName,
    ds: Ds,
    dataset: MaybeDataset = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="An exported file with repaired rows.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who repairs. Default: the user's name.")] = None,
    reason: Annotated[str, typer.Option(help="Why, where the rows themselves do not say.")] = "",
    release: Annotated[
        bool | None,
        typer.Option(
            "--release/--no-release",
            help="Score and release the night again. Default: unless it was loaded as history.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the file changes, and change nothing.")
    ] = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    as_json: AsJson = False,
) -> None:
    """Put repaired rows into their night; or, without any, what contract and cleaning say now.

    Only steps whose inputs changed run again. A row that is still bad goes back to quarantine.
    """
    with errors(as_json):
        plan, found = _plan(project, warehouse, pipeline)
        from nightjar.engine import replay as engine

        request = engine.Request(ds, dataset, rows, by or getpass.getuser(), reason, release)
        repairs = engine.prepare(found, plan, request)  # a fault is said before a JVM starts
        if dry_run:
            changed = [
                {"file": r.file, "record": r.record, "action": r.action, "changed": list(r.changed)}
                for r in repairs
            ]
            lines = [
                f"{r.file} record {r.record}: {r.action} {', '.join(r.changed)}".rstrip()
                for r in repairs
            ]
            answer(as_json, {"repairs": changed}, "\n".join(lines) or "no row is changed")
            return
        from nightjar.engine.open import open_work

        def say(line: str) -> None:
            typer.echo(line, err=as_json)

        with open_work(found, plan, [ds], profile, say) as work:
            outcome = engine.replay(work, request)
        answer(as_json, outcome.as_dict(), str(outcome))


def history(
    pipeline: PipelineName,
    ds: MaybeDs = None,
    dataset: MaybeDataset = None,
    unmask: Unmask = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Who replaced or discarded which records, when and why, and what rules these broke."""
    with errors(as_json):
        plan, found = _plan(project, warehouse, pipeline)
        from nightjar.engine.quarantine import masked
        from nightjar.engine.repairs import RepairLog

        rows: list[dict[str, Any]] = []
        for source in _sources(plan, dataset):
            log = RepairLog(found.warehouse, pipeline, source)
            pii = frozenset[str]() if unmask else plan.contract_of(source).pii
            for night in log.nights() if ds is None else [ds]:
                for r in log.entries(night):
                    values = masked({n: r.values.get(n) for n in r.changed}, pii)
                    facts = {k: getattr(r, k) for k in ("replay", "at", "by", "action", "reason")}
                    rows.append(
                        {"ds": str(night), "dataset": source, **facts, "file": r.file,
                         "record": r.record, "rules": list(r.rules), "changed": values}
                    )  # fmt: skip
        lines = [["night", "dataset", "replay", "at", "by", "record", "what", "broke", "why"]]
        for row in rows:
            what = ", ".join(f"{n}={v!r}" for n, v in row["changed"].items())
            lines.append(
                [row["ds"], row["dataset"], str(row["replay"]), row["at"], row["by"],
                 f"{row['file']}:{row['record']}", f"{row['action']} {what}".strip(),
                 ", ".join(row["rules"]), row["reason"]]
            )  # fmt: skip
        text = "\n".join(_table(lines)) if rows else "no row was ever repaired"
        answer(as_json, {"repairs": rows}, text)


# -- how ------------------------------------------------------------------------------------------


def _plan(project: Path | None, warehouse: Path | None, pipeline: str) -> tuple[Plan, Project]:
    from nightjar.core.plan import load_plan

    found = Project.find(project, warehouse)
    return load_plan(found, pipeline), found


def _sources(plan: Plan, dataset: str | None) -> list[str]:
    sources = plan.spec.sources
    if dataset is not None and dataset not in sources:
        raise UsageError(f"no source is called {dataset!r}; {near(dataset, sources)}")
    return list(sources) if dataset is None else [dataset]


def _cleaned(project: Project, plan: Plan, dataset: str | None) -> list[Record]:
    """The clean records of the pipeline, by night and source."""
    from nightjar.core.records import RecordBook

    book = RecordBook(project.warehouse, plan.spec.name)
    found = [
        record
        for source in _sources(plan, dataset)
        for night in book.nights(f"clean.{source}")
        if (record := book.get(night, f"clean.{source}"))
    ]
    return sorted(found, key=lambda r: r.ds)


def _date(record: Record) -> Any:
    from datetime import date

    return date.fromisoformat(record.ds)


def _require(project: Project, plan: Plan, ds: Any, dataset: str, rule: str | None) -> Record:
    """The clean record of one night and dataset, in which `rule` may stand."""
    held = {r.ds: r for r in _cleaned(project, plan, dataset)}
    record = held.get(str(ds))
    if record is None:
        raise NotThereYet(
            f"{dataset} of {ds} was not cleaned; nights that were: "
            + (", ".join(list(held)[-5:]) or "none"),
            ds=str(ds),
        )
    broken = record.details.get("rules_broken", {})
    if rule is not None and rule not in broken:
        raise UsageError(f"no row of {dataset} {ds} breaks a rule {rule!r}; {near(rule, broken)}")
    return record


def _table(lines: list[list[str]]) -> list[str]:
    """Columns of equal width; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell
            if i == last and not _is_number(cell)
            else cell.rjust(width)
            if _is_number(cell) or (line is lines[0] and _is_number(lines[-1][i]))
            else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").isdecimal() or cell == "?"
