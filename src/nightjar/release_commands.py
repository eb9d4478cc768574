"""The commands of `nightjar` that look at releases and look after them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from nightjar.answers import answer, errors
from nightjar.core.project import Project
from nightjar.options import AsJson, PipelineName, ProjectFolder, Warehouse

OnePipeline = Annotated[str | None, typer.Argument(help="One pipeline. Default: all.")]
ReleaseId = Annotated[str, typer.Argument(help="A release's id, as `nightjar releases` shows it.")]


def add_to(app: typer.Typer, epilog: str) -> None:
    """Add the commands of this module to the application."""
    for command in (
        releases, query, diff, rollback, pin, unpin, vacuum, verify, export, catalog,
    ):  # fmt: skip
        app.command(epilog=epilog)(command)


def releases(
    pipeline: OnePipeline = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """List the releases that are kept, newest first, and say which one readers see."""
    with errors(as_json):
        rows = []
        for log in _logs(Project.find(project, warehouse), pipeline):
            entries = log.entries()
            head = entries[-1] if entries else log.head()
            for r in reversed(log.kept(entries)):
                rows.append(
                    {
                        "release": r.id,
                        "visible": r.id == head.release,
                        "pin": head.pins.get(r.id),
                        "pipeline": r.pipeline,
                        "dataset": r.dataset,
                        "ds": r.ds,
                        "nights": r.nights,
                        "rows": r.rows,
                        "bytes": r.bytes,
                        "model": r.partitions[r.ds].get("model", {}).get("version"),
                        "created": r.created,
                        "folder": log.store.location(f"releases/{r.id}"),
                    }
                )
        lines = [
            f"{'*' if r['visible'] else ' '} {r['release']}  {r['dataset']}  "
            f"{r['nights']} night(s)  {r['rows']:,} rows  {r['bytes'] / 1e6:,.1f} MB  "
            f"{r['model']}  {r['created']}" + ("" if r["pin"] is None else f"  pinned {r['pin']}")
            for r in rows
        ]
        text = "\n".join(lines) or "nothing is released yet"
        answer(as_json, {"releases": rows}, text.rstrip())


def query(
    sql: Annotated[
        str, typer.Argument(help="SQL over the released datasets, in DuckDB's dialect.")
    ],
    release: Annotated[
        list[str] | None,
        typer.Option("--release", help="Ask this release of its dataset, not the current one."),
    ] = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Query what is released: one table for each published dataset."""
    from nightjar.core.query import query_releases

    with errors(as_json):
        found = query_releases(Project.find(project, warehouse), sql, release or ())
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
        answer(as_json, {"releases": found.releases, "rows": rows}, found.text)


def diff(
    pipeline: PipelineName,
    before: Annotated[str, typer.Argument(help="A release.")],
    after: Annotated[str | None, typer.Argument(help="Another. Default: the current one.")] = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two releases: rows added, removed, changed; shift of the scores.

    Nights whose files both share are equal; the shift is that of the other nights.
    """
    from nightjar.core.releases.diff import diff as compare

    with errors(as_json):
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        found = compare(log, log.require(before), log.require(after))
        lines = [
            f"{found.before} -> {found.after}",
            f"nights that differ  {', '.join(found.nights) or 'none'}",
            f"rows added          {found.added:,}",
            f"rows removed        {found.removed:,}",
            "rows changed        "
            + ("(no key is declared)" if found.changed is None else f"{found.changed:,}"),
            f"rows the same       {found.same:,}",
        ]
        if found.columns_added or found.columns_removed:
            lines.append(f"columns             +{list(found.columns_added)} "
                         f"-{list(found.columns_removed)}")  # fmt: skip
        if found.shift:
            s = found.shift
            if s.mean_before is None or s.mean_after is None:
                lines.append(
                    f"{found.score}: one of the two has no score in the nights that differ"
                )
            else:
                lines.append(
                    f"{found.score}, in the nights that differ: mean {_number(s.mean_before)} -> "
                    f"{_number(s.mean_after)}; row by row {_number(s.mean_change)} on average, "
                    f"{_number(s.greatest_change)} at most; PSI {_number(s.psi)}"
                )
        answer(as_json, found.as_dict(), "\n".join(lines))


def rollback(
    pipeline: PipelineName,
    release: ReleaseId,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Let readers see an earlier (or a later) release that is kept: one step, nothing is copied."""
    with errors(as_json):
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        before = log.require().id
        found = log.rollback(release)
        data = {"pipeline": pipeline, "before": before, "release": found.id}
        answer(as_json, data, f"{pipeline}: readers see {found.id} ({found.rows:,} rows)")


def pin(
    pipeline: PipelineName,
    release: ReleaseId,
    note: Annotated[str, typer.Option(help="Why it is kept.")] = "",
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Keep a release whatever the retention says."""
    with errors(as_json):
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        log.pin(release, note)
        answer(as_json, {"pipeline": pipeline, "pinned": release}, f"{release} is pinned")


def unpin(
    pipeline: PipelineName,
    release: ReleaseId,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Leave a pinned release to the retention again."""
    with errors(as_json):
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        log.unpin(release)
        answer(as_json, {"pipeline": pipeline, "unpinned": release}, f"{release} is not pinned")


def vacuum(
    pipeline: OnePipeline = None,
    grace: Annotated[
        str | None, typer.Option(help="Like '2 hours'. Default: publish.retention.grace, 1 day.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Let releases expire by the pipeline's retention; collect what no release or run needs.

    What expired, and what killed publishers left, goes to the trash after the grace period, and is
    deleted when it has been there as long again. Of the runs' own folders, those that no run record
    names are marked, and deleted when the mark is a grace period old.
    """
    from nightjar.core.attempts import collect as collect_attempts
    from nightjar.core.releases.vacuum import vacuum as collect

    with errors(as_json):
        found = Project.find(project, warehouse)
        done = {}
        for log in _logs(found, pipeline):
            retention = _retention(found, log.pipeline, grace)
            did = collect(log, retention, dry_run=dry_run)
            attempts = collect_attempts(
                found.warehouse, log.pipeline, retention.grace, dry_run=dry_run
            )
            done[log.pipeline] = {
                "expired": did.expired,
                "trashed": did.trashed,
                "deleted": did.deleted,
                "attempts_marked": attempts.marked,
                "attempts_deleted": attempts.deleted,
            }
        would = "would have " if dry_run else ""
        lines = [
            f"{name}: {would}{len(d['expired'])} release(s) expired, {len(d['trashed'])} moved to "
            f"the trash, {len(d['deleted'])} batch(es) of trash deleted; of the runs' own folders "
            f"{len(d['attempts_marked'])} marked as not needed, "
            f"{len(d['attempts_deleted'])} deleted"
            for name, d in done.items()
        ]
        answer(as_json, {"dry_run": dry_run, "pipelines": done}, "\n".join(lines))


def verify(
    pipeline: PipelineName,
    release: Annotated[
        str | None, typer.Argument(help="A release. Default: the current one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every release that is kept.")] = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Re-read a release and hold every byte against its checksums."""
    from nightjar.core.errors import DamagedRelease
    from nightjar.core.releases.verify import verify as check

    with errors(as_json):
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        wanted = log.all() if every else [log.require(release)]
        checked, damaged = {}, []
        for one in wanted:
            try:
                checked[one.id] = check(log, one)
            except DamagedRelease as error:
                if not every:
                    raise
                damaged.append(error)
        if damaged:
            raise DamagedRelease(
                f"{len(damaged)} of {len(wanted)} releases do not hold; these do: "
                f"{', '.join(checked) or 'none'}\n" + "\n".join(e.message for e in damaged),
                hold=list(checked),
            )
        lines = [f"{name}: {size:,} bytes hold" for name, size in checked.items()]
        answer(as_json, {"verified": checked}, "\n".join(lines))


def export(
    pipeline: PipelineName,
    delta: Annotated[
        bool, typer.Option("--delta", help="As a Delta table that shares the release's files.")
    ] = False,
    release: Annotated[
        str | None, typer.Option("--release", help="A release. Default: the current one.")
    ] = None,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Let engines of another table format read a release, without copying it."""
    from nightjar.core.errors import UsageError

    with errors(as_json):
        if not delta:
            raise UsageError("say which format to export to: --delta")
        (log,) = _logs(Project.find(project, warehouse), pipeline)
        from nightjar.engine.delta import export_delta

        chosen = log.require(release)
        folder, version = export_delta(log, chosen)
        data = {"release": chosen.id, "table": str(folder), "version": version}
        answer(as_json, data, f"{chosen.id} is version {version} of the Delta table {folder}")


def catalog(
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    as_json: AsJson = False,
) -> None:
    """Write the DuckDB catalog: a view for each dataset and for each release that is kept."""
    from nightjar.core.releases.views import build_catalog

    with errors(as_json):
        path = build_catalog(Project.find(project, warehouse))
        answer(as_json, {"catalog": str(path)}, f"duckdb -readonly {path}")


# -- how ------------------------------------------------------------------------------------------


def _logs(project: Project, pipeline: str | None) -> list[Any]:
    from nightjar.core.releases import ReleaseLog

    if pipeline is not None:
        project.pipeline_file(pipeline)
    names = [pipeline] if pipeline else project.pipeline_names()
    return [ReleaseLog(project.warehouse, name) for name in names]


def _retention(project: Project, pipeline: str, grace: str | None) -> Any:
    from nightjar.core.errors import UsageError
    from nightjar.core.pipeline import parse_duration
    from nightjar.core.plan import load_plan
    from nightjar.core.releases.vacuum import Retention

    declared = load_plan(project, pipeline).spec.publish.retention
    wait: timedelta = declared.grace
    if grace is not None:
        try:
            wait = parse_duration(grace)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return Retention(declared.releases, declared.age, wait)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
