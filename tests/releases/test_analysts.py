"""What analysts use: catalog, query, diff, the command line, and every snippet of the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forge import ROWS, Batch
from typer.testing import CliRunner

from nightjar.cli import app
from nightjar.core.errors import NotThereYet, UsageError
from nightjar.core.project import Project
from nightjar.core.query import query_releases
from nightjar.core.releases import Release, ReleaseLog
from nightjar.core.releases.diff import diff
from nightjar.core.releases.vacuum import Retention, vacuum
from nightjar.core.releases.views import build_catalog, connect

Batches = dict[tuple[int, str], Batch]
PAGE = Path(__file__).parents[2] / "docs" / "releases.md"
ROOT = PAGE.parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The repository's own pipeline, with a warehouse of its own."""
    return Project(ROOT, tmp_path / "warehouse")


@pytest.fixture
def made(project: Project, batches: Batches) -> list[Release]:
    """Two nights, then the first again."""
    log = ReleaseLog(project.warehouse, "flight_delays")
    return [batches[k].publish(log)[0] for k in ((0, "a"), (1, "a"), (0, "b"))]


def rows(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
    return found


def test_the_catalog_is_live_described_and_without_pii(
    project: Project, made: list[Release], batches: Batches
) -> None:
    path = build_catalog(project)
    catalog = connect(str(path), read_only=True)
    assert rows(catalog, "SELECT run, count(*) FROM scores GROUP BY 1 ORDER BY 1") == [
        ("2013-01-01/b", 2 * ROWS), ("2013-01-02/a", 2 * ROWS),
    ]  # fmt: skip
    assert rows(catalog, f'SELECT DISTINCT run FROM releases."{made[0].id}"') == [("2013-01-01/a",)]
    assert "who" not in [c[0] for c in catalog.execute("FROM scores LIMIT 0").description]
    assert rows(catalog, "SELECT who FROM with_pii.scores WHERE k = 3 LIMIT 1") == [("person 3",)]
    comments = rows(
        catalog,
        "SELECT column_name, comment FROM duckdb_columns() "
        "WHERE schema_name = 'main' AND table_name = 'scores'",
    )
    assert ("run", "Which run made the row; it isn't secret") in comments
    log = ReleaseLog(project.warehouse, "flight_delays")
    batches[2, "a"].publish(log)
    assert rows(catalog, "SELECT count(*) FROM scores") == [(6 * ROWS,)]
    log.rollback(made[0].id)
    assert rows(catalog, "SELECT count(*) FROM scores") == [(2 * ROWS,)]
    with pytest.raises(Exception, match="read-only"):
        catalog.execute("DROP VIEW scores")


def test_the_catalog_follows_what_is_kept(
    project: Project, made: list[Release], batches: Batches
) -> None:
    log = ReleaseLog(project.warehouse, "flight_delays")
    build_catalog(project)
    added, _ = batches[2, "a"].publish(log)
    vacuum(log, Retention(releases=2))
    path = build_catalog(project, fresh=False)
    views = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'releases' ORDER BY 1"
    catalog = connect(str(path), read_only=True)
    assert [v for (v,) in rows(catalog, views)] == [made[2].id, added.id]
    assert not [p for p in path.parent.iterdir() if p.name.endswith(".tmp")]


def test_query_asks_the_current_or_a_named_release(project: Project, made: list[Release]) -> None:
    count = "SELECT count(*) FROM scores"
    assert query_releases(project, count).rows == [(4 * ROWS,)]
    answer = query_releases(project, count, [made[0].id])
    assert answer.rows == [(2 * ROWS,)]
    assert answer.releases == {"scores": made[0].id}
    with pytest.raises(NotThereYet):
        query_releases(project, count, ["r000099-2013-01-01-00000000"])
    for forbidden in ("SELECT who FROM scores", "SELECT * FROM read_text('/etc/hostname')"):
        with pytest.raises(UsageError):
            query_releases(project, forbidden)


def test_diff_counts_rows_and_the_shift(project: Project, made: list[Release]) -> None:
    log = ReleaseLog(project.warehouse, "flight_delays")
    found = diff(log, made[0], made[2])
    assert (found.added, found.removed, found.changed, found.same) == (2 * ROWS, 0, 2 * ROWS, 0)
    assert found.nights == ("2013-01-01", "2013-01-02")
    back = diff(log, made[2], made[0])
    assert (back.added, back.removed) == (0, 2 * ROWS)
    only = diff(log, made[1], made[2])
    assert (only.changed, only.same) == (2 * ROWS, 2 * ROWS)
    assert only.shift
    means = rows(
        connect(),
        " UNION ALL ".join(
            f"SELECT avg(score) FROM '{log.folder(r)}/ds=2013-01-01/*.parquet'" for r in made[1:]
        ),
    )
    assert (only.shift.mean_before, only.shift.mean_after) == pytest.approx(
        tuple(m[0] for m in means)
    )
    assert only.shift.psi is not None
    assert only.shift.psi > 0
    none = diff(log, made[1], made[1])
    assert (none.added, none.removed, none.changed, none.same) == (0, 0, 0, 4 * ROWS)


def test_the_command_line(project: Project, made: list[Release]) -> None:
    def run(*words: str, status: int = 0) -> Any:
        place = ["--project", str(project.root), "--warehouse", str(project.warehouse), "--json"]
        result = CliRunner().invoke(app, [*words, *place])
        assert result.exit_code == status, result.output
        text = result.stdout
        return json.loads(text[: text.rindex("}") + 1])

    name = "flight_delays"
    run("pin", name, made[0].id, "--note", "the board's figures")
    listed = run("releases", name)["releases"]
    assert [(r["release"], r["visible"], r["pin"]) for r in listed] == [
        (made[2].id, True, None),
        (made[1].id, False, None),
        (made[0].id, False, "the board's figures"),
    ]
    assert listed[0]["bytes"] == made[2].bytes
    assert run("rollback", name, made[1].id)["release"] == made[1].id
    assert run("query", "SELECT count(*) AS n FROM scores")["rows"] == [{"n": 4 * ROWS}]
    asked = run("query", "SELECT count(*) AS n FROM scores", "--release", made[0].id)
    assert asked["rows"] == [{"n": 2 * ROWS}]
    assert run("diff", name, made[0].id)["after"] == made[1].id
    assert set(run("verify", name, "--all")["verified"]) == {r.id for r in made}
    assert run("catalog")["catalog"].endswith("catalog.duckdb")
    assert run("export", name, "--delta")["version"] >= 0
    assert run("export", name, status=2)["error"]["code"] == "USAGE"
    assert run("vacuum", name, "--dry-run")["pipelines"][name]["expired"] == []
    assert run("vacuum", name, "--grace", "soon", status=2)["error"]["code"] == "USAGE"
    run("unpin", name, made[0].id)
    assert run("rollback", name, "r000099-x-y", status=4)["error"]["code"] == "NOT_THERE_YET"
    path = Path(ReleaseLog(project.warehouse, name).files(made[1])[0])
    path.chmod(0o644)
    path.write_bytes(b"PAR1")
    assert run("verify", name, status=3)["error"]["code"] == "RELEASE_DAMAGED"
    every = run("verify", name, "--all", status=3)["error"]
    assert f"these do: {made[2].id}" in every["message"]
    assert all(f"release {r.id} is damaged" in every["message"] for r in made[:2])


# -- the page --------------------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    found = re.findall(r"<!-- run: (\w+) -->\n```(?:python|sql)\n(.*?)```", PAGE.read_text(), re.S)
    assert len(found) >= 6
    return found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(*s, id=s[0], marks=[pytest.mark.slow] if s[0] == "spark" else [])
        for s in snippets()
    ],
)
def test_every_snippet_of_the_page_runs(
    name: str, code: str, project: Project, made: list[Release]
) -> None:
    """Each leaves its number of rows in `rows`."""
    build_catalog(project)
    if name == "sql":
        catalog = connect(str(project.warehouse / "published/catalog.duckdb"), read_only=True)
        text = code.replace("flight_delay_scores", "scores").replace("late_probability", "score")
        answers = [
            rows(catalog, re.sub(r"r\d{6}-[\w-]+", made[0].id, statement))
            for statement in text.split(";")
            if statement.strip()
        ]
        assert answers[0] == [(4 * ROWS,)]
        return
    program = code + "\nassert rows == 80, rows\n"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=project.warehouse.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
