"""Diff: what changed from one release to another, row by row and in the scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nightjar.core.releases.log import Release, ReleaseLog, nights_of
from nightjar.core.releases.views import connect, described, named, rows_of

BINS = 10


@dataclass(frozen=True)
class Shift:
    """How a score moved in the nights that differ: means of their rows, then of the rows in both.

    `psi` is the population stability index over ten bins of equal width between the least and
    the greatest score: the sum of (b - a) ln(b / a) over the bins' shares, each at least 1e-6.
    """

    mean_before: float | None
    mean_after: float | None
    mean_change: float | None
    greatest_change: float | None
    psi: float | None


@dataclass(frozen=True)
class Difference:
    """Rows by key where the contract declares one; else rows as wholes, and `changed` is None."""

    before: str
    after: str
    nights: tuple[str, ...]
    added: int
    removed: int
    changed: int | None
    same: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    score: str | None
    shift: Shift | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def diff(log: ReleaseLog, before: Release, after: Release) -> Difference:
    """Compare two releases; nights whose files both share are equal and are not read."""
    old, new = nights_of(before), nights_of(after)
    nights = sorted(
        ds for ds in {*old, *new} if old.get(ds, {}).get("folder") != new.get(ds, {}).get("folder")
    )
    shared = sum(n["rows"] for ds, n in new.items() if ds not in nights)
    if not nights:
        return Difference(before.id, after.id, (), 0, 0, 0, shared, (), (), None, None)
    connection = connect()
    mount(connection, log)
    sides = {
        "a": [ds for ds in nights if ds in old],
        "b": [ds for ds in nights if ds in new],
    }
    sources = {side: rows_of(log, r, sides[side]) for side, r in (("a", before), ("b", after))}
    for side, other in (("a", "b"), ("b", "a")):
        rows = sources[side] if sides[side] else f"{sources[other]} WHERE false"
        connection.execute(f"CREATE TABLE {side} AS SELECT * FROM {rows}")
    columns = {s: [r[0] for r in connection.sql(f"DESCRIBE {s}").fetchall()] for s in "ab"}
    common = [c for c in columns["a"] if c in columns["b"]]
    about = {c["name"]: c for c in described(after)}
    key = [c for c in common if c == "ds" or about.get(c, {}).get("key")]
    score = next((c for c in common if about.get(c, {}).get("score")), None)
    if len(key) > 1:
        added, removed, changed, same = _by_key(connection, common, key)
    else:
        added, removed, same = _as_wholes(connection, common)
        changed = None
    return Difference(
        before.id,
        after.id,
        tuple(nights),
        added,
        removed,
        changed,
        same + shared,
        tuple(c for c in columns["b"] if c not in common),
        tuple(c for c in columns["a"] if c not in common),
        score,
        _shift(connection, score, key if len(key) > 1 else []) if score else None,
    )


def mount(connection: Any, log: ReleaseLog) -> None:
    """Let DuckDB read where the releases lie, through the store's own client."""
    files = getattr(log.store, "files", None)
    if files is not None:
        connection.register_filesystem(files)


def _by_key(connection: Any, common: list[str], key: list[str]) -> tuple[int, int, int, int]:
    values = [c for c in common if c not in key]
    differs = " OR ".join(f"a.{named(c)} IS DISTINCT FROM b.{named(c)}" for c in values) or "false"
    found = connection.execute(
        f"SELECT count(*) FILTER (a.present IS NULL), count(*) FILTER (b.present IS NULL), "
        f"count(*) FILTER (a.present AND b.present AND ({differs})), "
        f"count(*) FILTER (a.present AND b.present AND NOT ({differs})) "
        f"FROM {_joined(key)}"
    ).fetchone()
    return int(found[0]), int(found[1]), int(found[2]), int(found[3])


def _as_wholes(connection: Any, common: list[str]) -> tuple[int, int, int]:
    columns = ", ".join(map(named, common))
    a, b = f"SELECT {columns} FROM a", f"SELECT {columns} FROM b"
    counts = [
        connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()[0]
        for sql in (f"{b} EXCEPT ALL {a}", f"{a} EXCEPT ALL {b}", f"{a} INTERSECT ALL {b}")
    ]
    return int(counts[0]), int(counts[1]), int(counts[2])


def _joined(key: list[str]) -> str:
    on = " AND ".join(f"a.{named(c)} IS NOT DISTINCT FROM b.{named(c)}" for c in key)
    return (
        "(SELECT *, true AS present FROM a) AS a "
        f"FULL JOIN (SELECT *, true AS present FROM b) AS b ON {on}"
    )


def _shift(connection: Any, score: str, key: list[str]) -> Shift:
    s = named(score)
    means = [connection.execute(f"SELECT avg({s}) FROM {t}").fetchone()[0] for t in "ab"]
    moved: tuple[float | None, float | None] = (None, None)
    if key:
        moved = connection.execute(
            f"SELECT avg(b.{s} - a.{s}), max(abs(b.{s} - a.{s})) FROM {_joined(key)}"
        ).fetchone()
    psi = connection.execute(
        f"""
        WITH ends AS (SELECT min({s}) AS low, max({s}) AS high
                      FROM (SELECT {s} FROM a UNION ALL SELECT {s} FROM b)),
        binned AS (
            SELECT side, least({BINS - 1}, floor({BINS} * (v - low) / nullif(high - low, 0))) AS bin
            FROM (SELECT 'a' AS side, {s} AS v FROM a UNION ALL SELECT 'b', {s} FROM b), ends),
        shares AS (
            SELECT bin, greatest(1e-6, count(*) FILTER (side = 'a')
                       / (SELECT nullif(count(*), 0) FROM a)) AS a,
                   greatest(1e-6, count(*) FILTER (side = 'b')
                       / (SELECT nullif(count(*), 0) FROM b)) AS b
            FROM binned GROUP BY bin)
        SELECT CASE WHEN (SELECT count(*) FROM a) > 0 AND (SELECT count(*) FROM b) > 0
                    THEN sum((b - a) * ln(b / a)) END FROM shares
        """
    ).fetchone()[0]
    return Shift(means[0], means[1], moved[0], moved[1], psi)
