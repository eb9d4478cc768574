"""SQL over what is released, by DuckDB, which sees the releases' files and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightjar.core.errors import EnvironmentFault, NotThereYet, UsageError
from nightjar.core.project import Project
from nightjar.core.releases import ReleaseLog


@dataclass(frozen=True)
class Answer:
    """The answer, and the release behind each table that could be asked."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    text: str
    releases: dict[str, str]


def query_releases(project: Project, sql: str) -> Answer:
    """Run one SQL statement; each published dataset is a view of its current release.

    The releases are resolved once, so that one answer never mixes two of them.

    Raises:
        NotThereYet: nothing is released.
        UsageError: DuckDB refuses the statement.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise EnvironmentFault("queries need the package duckdb (dependency group: job)") from error

    connection = duckdb.connect()
    used: dict[str, str] = {}
    for name in project.pipeline_names():
        log = ReleaseLog(project.warehouse, name)
        release = log.current()
        if release is None:
            continue
        files = str(log.folder(release) / "ds=*" / "*.parquet").replace("'", "''")
        connection.execute(
            f'CREATE VIEW "{release.dataset}" AS '
            f"SELECT * FROM read_parquet('{files}', hive_partitioning = true)"
        )
        used[release.dataset] = release.id
    if not used:
        raise NotThereYet(
            "nothing is released yet; run a night first: nightjar run PIPELINE --ds D"
        )
    published = str(project.warehouse / "published").replace("'", "''")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET allowed_directories = ['{published}/']")
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
