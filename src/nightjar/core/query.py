"""SQL over what is released, by DuckDB, which sees the releases' files and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.core.errors import NotThereYet, UsageError
from nightjar.core.project import Project
from nightjar.core.releases import PosixStore, Release, ReleaseLog
from nightjar.core.releases.diff import mount
from nightjar.core.releases.views import WITH_PII, connect, default_columns, named, quoted, rows_of


@dataclass(frozen=True)
class Answer:
    """The answer, and the release behind each table that could be asked."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    text: str
    releases: dict[str, str]


def query_releases(project: Project, sql: str, releases: Sequence[str] = ()) -> Answer:
    """Run one SQL statement; each published dataset is a view of its current release.

    Where one of `releases` is of a dataset, the view shows that one instead. The releases are
    resolved once, so that one answer never mixes two of them. Columns that the contract marks as
    pii are in the views of the schema `with_pii` alone.

    Raises:
        NotThereYet: nothing is released, or there is no such release.
        UsageError: DuckDB refuses the statement.
    """
    connection = connect()
    import duckdb

    connection.execute(f"CREATE SCHEMA {WITH_PII}")
    used: dict[str, str] = {}
    places: list[str] = []
    for log, release in _resolved(project, releases):
        mount(connection, log)
        rows = rows_of(log, release)
        for schema, pii in (("main", False), (WITH_PII, True)):
            connection.execute(
                f"CREATE VIEW {schema}.{named(release.dataset)} AS "
                f"SELECT {default_columns(release, pii)} FROM {rows}"
            )
        used[release.dataset] = release.id
        if isinstance(log.store, PosixStore):
            places.append(f"{log.store.root}/")
    connection.execute(f"SET allowed_directories = [{', '.join(map(quoted, places))}]")
    if places:  # an object store is read through its client, which DuckDB counts as external
        connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    try:
        for statement in connection.extract_statements(sql):
            if statement.type is not duckdb.StatementType.SELECT:  # EXPLAIN ANALYZE executes
                kind = statement.type.name
                raise UsageError(f"releases are only read: {kind} is no SELECT", found=kind)
        relation: duckdb.DuckDBPyRelation | None = connection.sql(sql)
        if relation is None:  # a statement without an answer
            return Answer([], [], "", used)
        return Answer(relation.columns, relation.fetchall(), str(connection.sql(sql)), used)
    except duckdb.Error as error:
        raise UsageError(f"DuckDB: {error}", tables=sorted(used)) from error


def _resolved(project: Project, releases: Sequence[str]) -> list[tuple[ReleaseLog, Release]]:
    """The release to show of each pipeline that has any."""
    wanted, found = set(releases), []
    for name in project.pipeline_names():
        log = ReleaseLog(project.warehouse, name)
        current = log.current()
        if current is None:
            continue
        named_here = [r for r in log.all() if r.id in wanted] if wanted else []
        wanted -= {r.id for r in named_here}
        found.append((log, named_here[0] if named_here else current))
    if wanted:
        raise NotThereYet(f"no release is called {', '.join(sorted(wanted))} (any more)")
    if not found:
        raise NotThereYet(
            "nothing is released yet; run a night first: nightjar run PIPELINE --ds D"
        )
    return found
