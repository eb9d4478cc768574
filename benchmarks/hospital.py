"""How many wrong cells a contract finds, and how many of those that it finds are wrong.

    python benchmarks/hospital.py FOLDER

FOLDER holds dirty.csv and clean.csv of the Raha benchmark's hospital table: the same rows, with 509
cells spoilt in the first. The contract is benchmarks/hospital.odcs.yaml. A cell is found where a
broken rule names its column. Prints precision and recall by cell: of the rules about single values,
of the dependencies between columns, and of both.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from datetime import date
from pathlib import Path

from nightjar.core.contract import Contract, load_contract
from nightjar.core.project import Project
from nightjar.engine.session import start
from nightjar.engine.stages.clean import clean
from nightjar.engine.stages.ingest import bronze_schema

Cell = tuple[int, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    contract = load_contract(Path(__file__).with_name("hospital.odcs.yaml"))
    dirty, right = (read(given.folder / f"{name}.csv") for name in ("dirty", "clean"))
    wrong = {
        (number, name)
        for number, (found, true) in enumerate(zip(dirty, right, strict=True), start=1)
        for name, a, b in zip(contract.names, found, true, strict=True)
        if a != b
    }
    broken = find(contract, dirty)
    print(f"{len(dirty)} rows, {len(contract.names)} columns, {len(wrong)} wrong cells")
    dependencies = {r.id for r in contract.row_rules if r.check.kind == "dependency"}
    chosen: dict[str, Callable[[str], bool]] = {
        "single values": lambda rule: rule not in dependencies,
        "dependencies": lambda rule: rule in dependencies,
        "both": lambda rule: True,
    }
    for label, counts in chosen.items():
        found = {cell for cell, rules in broken.items() if any(map(counts, rules))}
        hits = len(found & wrong)
        print(
            f"{label:14} {len(found):4} cells found: precision {hits / max(len(found), 1):.4f} "
            f"({hits} of {len(found)}), recall {hits / len(wrong):.4f} ({hits} of {len(wrong)})"
        )
    for title, cells in (("missed", wrong - broken.keys()), ("false", broken.keys() - wrong)):
        by_column = {n: sum(c == n for _, c in cells) for n in contract.names}
        print(f"{title}: {', '.join(f'{n} {count}' for n, count in by_column.items() if count)}")


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def find(contract: Contract, rows: list[list[str]]) -> dict[Cell, set[str]]:
    """The rules that each cell breaks, by the clean step."""
    spark = start("hospital benchmark", Project.find().root / "spark-conf" / "local.conf")
    schema = bronze_schema(contract)
    facts = (None,) * (len(schema) - len(contract.names) - 3)
    night = date(2024, 1, 1)
    bronze = [(*row, night, "dirty.csv", i, *facts) for i, row in enumerate(rows, start=1)]
    cleaned = clean(spark.createDataFrame(bronze, schema), contract, (), ("",))
    found: dict[Cell, set[str]] = {}
    for row in cleaned.select("_record", "_broken").collect():
        for reason in row["_broken"]:
            found.setdefault((row["_record"], reason["column"]), set()).add(reason["rule"])
    spark.stop()
    return found


if __name__ == "__main__":
    main()
