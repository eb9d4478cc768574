"""Releases as SQL for DuckDB: what a view reads, and the catalog file that holds the views."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightjar.core.errors import EnvironmentFault, NotThereYet, StorageFault
from nightjar.core.project import Project
from nightjar.core.releases.log import Release, ReleaseLog, nights_of
from nightjar.core.releases.store import PosixStore

if TYPE_CHECKING:
    import duckdb

WITH_PII = "with_pii"
BY_RELEASE = "releases"
LANDED = "another release landed while this query began (run it again): no "


def connect(path: str = ":memory:", *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Raises EnvironmentFault where DuckDB is not installed."""
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise EnvironmentFault("queries need the package duckdb (dependency group: job)") from error
    connection = duckdb.connect(path, read_only=read_only)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def rows_of(log: ReleaseLog, release: Release, nights: Iterable[str] | None = None) -> str:
    """The rows of a release, or of some of its nights, as a table expression of exact files."""
    wanted = set(nights_of(release)) if nights is None else set(nights)
    files = [f for f in log.files(release) if _night(f) in wanted]
    listed = ", ".join(map(quoted, files))
    return f"read_parquet([{listed}], hive_partitioning = true, union_by_name = true)"


def described(release: Release) -> list[Mapping[str, Any]]:
    """The columns as the contract of the newest night describes them; [] where it does not say."""
    return list(release.partitions[release.ds].get("columns", []))


def default_columns(release: Release, pii: bool = False) -> str:
    """What a view shows: every described column (those marked pii only where asked), and ds."""
    names = [c["name"] for c in described(release) if pii or not c["pii"]]
    return ", ".join(map(named, [*names, "ds"])) if names else "*"


def build_catalog(project: Project, *, fresh: bool = True) -> Path:
    """Write `published/catalog.duckdb`: views of everything that is released, for readers.

    A view called as its dataset always shows the current release: it reads current.json when it
    is asked. The schema `releases` has one view for each kept release, `with_pii` the datasets
    with every column. The file is replaced in one step; who has it open keeps the old one. Unless
    `fresh`, what the present file says of releases that are kept is taken over unseen.

    Raises:
        NotThereYet: nothing is released.
        StorageFault: the releases are not on a file system.
    """
    logs = [ReleaseLog(project.warehouse, name) for name in project.pipeline_names()]
    released = [(log, current) for log in logs if (current := log.current())]
    if not released:
        raise NotThereYet("nothing is released yet: nightjar run PIPELINE --ds YYYY-MM-DD")
    target = project.warehouse / "published" / "catalog.duckdb"
    making = target.with_name(f".catalog.{uuid.uuid4().hex[:12]}.tmp")
    try:
        if target.exists() and not fresh:
            making.write_bytes(target.read_bytes())
        connection = connect(str(making))
        try:
            _fill(connection, released)
        finally:
            connection.close()
        making.chmod(0o444)
        os.replace(making, target)
    finally:
        making.unlink(missing_ok=True)
    return target


def _fill(
    connection: duckdb.DuckDBPyConnection, released: Iterable[tuple[ReleaseLog, Release]]
) -> None:
    for schema in (WITH_PII, BY_RELEASE):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    present = {
        name
        for (name,) in connection.execute(
            f"SELECT view_name FROM duckdb_views() WHERE schema_name = {quoted(BY_RELEASE)}"
        ).fetchall()
    }
    kept: set[str] = set()
    for log, current in released:
        live = _live(log)
        for schema, pii in (("main", False), (WITH_PII, True)):
            _add_view(connection, f"{schema}.{named(current.dataset)}", live, current, pii)
        for release in log.all():
            kept.add(release.id)
            if release.id not in present:
                view = f"{BY_RELEASE}.{named(release.id)}"
                _add_view(connection, view, _folder_rows(log, release), release, False)
    for gone in sorted(present - kept):
        connection.execute(f"DROP VIEW {BY_RELEASE}.{named(gone)}")


def _add_view(
    connection: duckdb.DuckDBPyConnection, view: str, rows: str, release: Release, pii: bool
) -> None:
    connection.execute(
        f"CREATE OR REPLACE VIEW {view} AS SELECT {default_columns(release, pii)} FROM {rows}"
    )
    about = f"{release.dataset} of pipeline {release.pipeline}"
    connection.execute(f"COMMENT ON VIEW {view} IS {quoted(about)}")
    for column in described(release):
        if column.get("description") and (pii or not column["pii"]):
            place = f"{view}.{named(column['name'])}"
            connection.execute(f"COMMENT ON COLUMN {place} IS {quoted(column['description'])}")


def _folder_rows(log: ReleaseLog, release: Release) -> str:
    files = quoted(f"{log.folder(release)}/ds=*/*.parquet")
    return f"read_parquet({files}, hive_partitioning = true, union_by_name = true)"


def _live(log: ReleaseLog) -> str:
    """The rows of whatever release is current when the query runs.

    DuckDB lists files while it plans, left to right, and reads current.json, one immutable
    manifest, when it runs. A night of the manifest that the first listing lacks is an error, and
    the second listing holds all of the first; so the answer is one release, or none.
    """
    if not isinstance(log.store, PosixStore):
        raise StorageFault("the catalog file is for releases on a file system; use nightjar query")
    root = log.store.root
    manifest = quoted(f"{root}/current.json")
    files = quoted(f"{root}/nights/ds=*/[0-9a-f]*/*.parquet")
    # union_by_name opens every file, and so lists them all, while DuckDB still plans; glob() would
    # list later, when the query runs.
    options = (
        "hive_partitioning = true, hive_types = {ds: DATE}, union_by_name = true, filename = true"
    )
    folder = "'nights/ds=[^/]*/[^/]*'"
    return f"""(
        SELECT data.* EXCLUDE (night_folder)
        FROM (
            SELECT named.ds, named.folder
            FROM (
                SELECT DISTINCT ds, regexp_extract(filename, {folder}) AS folder
                FROM read_parquet({files}, {options})
            ) AS present
            RIGHT JOIN (
                SELECT unnest(nights, recursive := true)
                FROM read_json({manifest}, format = 'unstructured',
                    maximum_object_size = 1073741824,
                    columns = {{nights: 'STRUCT(ds DATE, folder VARCHAR, rows BIGINT)[]'}})
            ) AS named ON present.ds = named.ds AND present.folder = named.folder
            WHERE named.rows > 0 AND CASE WHEN present.folder IS NULL
                THEN error({quoted(LANDED)} || named.folder)::BOOLEAN ELSE true END
        ) AS listed
        JOIN (
            SELECT * EXCLUDE (filename), regexp_extract(filename, {folder}) AS night_folder
            FROM read_parquet({files}, {options})
        ) AS data
        ON data.ds = listed.ds AND data.night_folder = listed.folder
    )"""


def _night(file: str) -> str:
    return file.rpartition("/nights/ds=")[2].partition("/")[0]


def quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """An identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
