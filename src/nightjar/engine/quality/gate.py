"""The gate: a contract's dataset rules as a Great Expectations suite, run as a checkpoint.

Great Expectations is asked only for what stops or warns: one expectation for each dataset rule,
and one that no kept row breaks a row rule. It caps the failing rows that it shows at 200, so the
examples in a message come from our own predicates, and the quarantine holds all of them.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from nightjar.core.checks import (
    Bounds,
    DatasetRule,
    Duplicates,
    Fresh,
    Invalid,
    Matches,
    Nulls,
    OneOf,
    Quarantined,
    RowCount,
    RowRulesHold,
    Severity,
)
from nightjar.core.contract import MASK, Contract
from nightjar.core.errors import GateFailed
from nightjar.engine.quality.predicates import breaks, broken_rules

BROKEN = "_broken_rules"
EXAMPLES = 3


@dataclass(frozen=True)
class Verdict:
    """How one dataset rule came out. `found` is what was seen, in words."""

    rule: str
    severity: str
    passed: bool
    columns: tuple[str, ...]
    expected: str
    found: str
    description: str
    engine: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    frame: DataFrame,
    contract: Contract,
    *,
    night: date,
    read: int,
    quarantined: int,
    docs: Path,
    run_name: str,
    broken: Mapping[str, int] | None = None,
) -> list[Verdict]:
    """Check every dataset rule of `contract` on `frame`, and write Data Docs under `docs`.

    `night` is the newest night in the frame, against which freshness is measured; `read`,
    `quarantined` and, by rule, `broken` are rows, from the accounting of the clean stage.
    """
    asked = [r for r in contract.dataset_rules if not isinstance(r.check, Quarantined)]
    counted = [r for r in contract.dataset_rules if isinstance(r.check, Quarantined)]
    verdicts = [_share_verdict(rule, read, quarantined, broken or {}) for rule in counted]
    if asked:
        verdicts += _expect(frame, contract, asked, night, docs, run_name)
    order = {rule.id: i for i, rule in enumerate(contract.dataset_rules)}
    return sorted(verdicts, key=lambda v: order[v.rule])


def refuse_if_critical(
    verdicts: Sequence[Verdict],
    frame: DataFrame,
    contract: Contract,
    label: str,
    docs: Path,
    quarantine: DataFrame | None = None,
) -> None:
    """Raise GateFailed where a critical rule failed, with counts and examples.

    `quarantine` holds the quarantined rows, for examples of what was wrong with them.
    """
    failed = [v for v in verdicts if not v.passed and v.severity == Severity.CRITICAL]
    if not failed:
        return
    rules = {rule.id: rule for rule in contract.dataset_rules}
    lines = []
    for verdict in failed:
        where = f" on column {', '.join(verdict.columns)}" if verdict.columns else ""
        lines.append(f"- {verdict.rule}{where}: found {verdict.found}; expected {verdict.expected}")
        rule = rules[verdict.rule]
        shown = quarantine if isinstance(rule.check, Quarantined) else frame
        if shown is not None:
            lines += [f"    for example {row}" for row in examples(shown, rule, contract.pii)]
    raise GateFailed(
        f"{label}: {len(failed)} critical check(s) of schemas/{contract.dataset}.odcs.yaml failed; "
        "nothing was published.\n" + "\n".join(lines) + f"\nReport: {docs / 'index.html'}\n"
        "Mend what is wrong in the data (or the contract, if the rule is wrong) and run the night "
        "again.",
        dataset=contract.dataset,
        failed=[v.as_dict() for v in failed],
    )


def examples(frame: DataFrame, rule: DatasetRule, pii: Collection[str] = frozenset()) -> list[str]:
    """A few rows that a failed rule is about, as text; of the quarantine, the rules broken.

    Values of the columns `pii` are masked: a message goes to logs that many people read.
    """
    match rule.check:
        case Duplicates(columns=columns):
            repeated = frame.groupBy(*columns).count().where(F.col("count") > 1)
            rows = repeated.orderBy(F.desc("count"), *columns).limit(EXAMPLES)
        case Nulls(column=column):
            rows = frame.where(F.col(column).isNull()).limit(EXAMPLES)
        case Invalid(check=check):
            bad = frame.where(breaks(check, F.col(check.column)))
            rows = bad.groupBy(check.column).count().orderBy(F.desc("count")).limit(EXAMPLES)
        case Fresh(column=column):
            rows = frame.agg(F.max(column).alias(f"newest {column}"))
        case RowRulesHold(rules=rules):
            broken = broken_rules(rules, {r.column: F.col(r.column) for r in rules})
            rows = (
                frame.select(F.explode(broken).alias("broken"))
                .groupBy("broken.rule", "broken.column", "broken.expected")
                .agg(F.count(F.lit(1)).alias("rows"), F.min(_masked_found(pii)).alias("found"))
                .orderBy(F.desc("rows"), "rule")
                .select("rule", "column", "rows", "found", "expected")
                .limit(EXAMPLES)
            )
        case Quarantined(rule=one):
            each = frame.select(F.explode("_broken").alias("broken"), "_file", "_record")
            each = each if one is None else each.where(F.col("broken.rule") == one)
            rows = (
                each.groupBy("broken.rule", "broken.column", "broken.expected")
                .agg(
                    F.count(F.lit(1)).alias("rows"),
                    F.min_by(_masked_found(pii), "_record").alias("found"),
                    F.min(F.struct("_record", "_file")).alias("first"),
                )
                .orderBy(F.desc("rows"), "rule")
                .select(
                    "rule", "column", "rows", "found", "expected", "first._file", "first._record"
                )
                .limit(EXAMPLES)
            )
        case _:
            return []
    return [
        ", ".join(
            f"{k}={MASK if k in pii else v}"
            for k, v in row.asDict(recursive=True).items()
            if v is not None
        )
        for row in _without_zones(rows).collect()
    ]


def _masked_found(pii: Collection[str]) -> Column:
    found = F.col("broken.found")
    hidden = F.col("broken.column").isin(*pii) & found.isNotNull()
    return F.when(hidden, F.lit(MASK)).otherwise(found)


def _share_verdict(
    rule: DatasetRule, read: int, quarantined: int, broken: Mapping[str, int]
) -> Verdict:
    assert isinstance(rule.check, Quarantined)
    bounds, one = rule.check.bounds, rule.check.rule
    rows = quarantined if one is None else broken.get(one, 0)
    percent = 100 * rows / read if read else 0.0
    value = percent if bounds.unit == "percent" else rows
    why = "" if one is None else f" for {one}"
    found = f"{rows:,} of {read:,} rows quarantined{why} ({percent:.2f}%)"
    return _verdict(rule, bounds.hold(value), str(bounds), found, "accounting")


def _verdict(rule: DatasetRule, passed: bool, expected: str, found: str, engine: str) -> Verdict:
    return Verdict(
        rule.id, str(rule.severity), passed, rule.columns, expected, found, rule.description, engine
    )


# -- Great Expectations -------------------------------------------------------------------------


def _expect(
    frame: DataFrame,
    contract: Contract,
    rules: Sequence[DatasetRule],
    night: date,
    docs: Path,
    run_name: str,
) -> list[Verdict]:
    gx = _great_expectations()
    from great_expectations.core.run_identifier import RunIdentifier

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    site = _docs_site(context, docs)
    suite = context.suites.add(gx.ExpectationSuite(name=contract.dataset))
    for rule in rules:
        suite.add_expectation(_expectation(gx, rule, night))
    source = context.data_sources.add_spark(name="spark", persist=False)
    batch = source.add_dataframe_asset(name=contract.dataset).add_batch_definition_whole_dataframe(
        "whole"
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=contract.dataset, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=contract.dataset,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=[site])],
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
    )
    row_rules = [
        r for rule in rules if isinstance(rule.check, RowRulesHold) for r in rule.check.rules
    ]
    shown = frame.select(*contract.names, _broken_text(row_rules).alias(BROKEN))
    answer = checkpoint.run(
        batch_parameters={"dataframe": _without_zones(shown)},
        run_id=RunIdentifier(run_name=run_name),
    )
    results = {
        result.expectation_config.meta["rule"]: result
        for run in answer.run_results.values()
        for result in run.results
    }
    return [_read_result(rule, results[rule.id], night) for rule in rules]


def _broken_text(rules: Sequence[Any]) -> Column:
    """The rules that a kept row breaks, in one text; null for all rows where clean did its work."""
    if not rules:
        return F.lit(None).cast("string")
    broken = broken_rules(rules, {rule.column: F.col(rule.column) for rule in rules})
    return F.when(F.size(broken) > 0, F.array_join(F.transform(broken, lambda b: b["rule"]), ", "))


def _expectation(gx: Any, rule: DatasetRule, night: date) -> Any:
    kinds, meta = gx.expectations, {"rule": rule.id, "severity": str(rule.severity)}
    common = {"meta": meta, "notes": rule.description}
    match rule.check:
        case RowCount(bounds=b):
            return kinds.ExpectTableRowCountToBeBetween(
                min_value=_whole(b.low, b.low_open, 1),
                max_value=_whole(b.high, b.high_open, -1),
                **common,
            )
        case Duplicates(columns=(column,), bounds=b):
            return kinds.ExpectColumnValuesToBeUnique(column=column, mostly=_mostly(b), **common)
        case Duplicates(columns=columns, bounds=b):
            return kinds.ExpectCompoundColumnsToBeUnique(
                column_list=list(columns), mostly=_mostly(b), **common
            )
        case Nulls(column=column, bounds=b):
            return kinds.ExpectColumnValuesToNotBeNull(column=column, mostly=_mostly(b), **common)
        case Invalid(check=OneOf(column=column, values=values), bounds=b):
            return kinds.ExpectColumnValuesToBeInSet(
                column=column, value_set=list(values), mostly=_mostly(b), **common
            )
        case Invalid(check=Matches(column=column, pattern=pattern), bounds=b):
            return kinds.ExpectColumnValuesToMatchRegex(
                column=column, regex=f"^(?:{pattern})\\z", mostly=_mostly(b), **common
            )
        case Fresh(column=column):
            oldest = _oldest(rule.check, night)
            return kinds.ExpectColumnMaxToBeBetween(column=column, min_value=oldest, **common)
        case RowRulesHold():
            return kinds.ExpectColumnValuesToBeNull(column=BROKEN, **common)
    raise TypeError(f"{rule.id}: {type(rule.check).__name__} has no expectation")


def _without_zones(frame: DataFrame) -> DataFrame:
    """`frame` with its instants as times of UTC; Spark shows instants in the driver's own zone."""
    return frame.select(
        *[
            F.col(f"`{f.name}`").cast("timestamp_ntz").alias(f.name)
            if isinstance(f.dataType, TimestampType)
            else F.col(f"`{f.name}`")
            for f in frame.schema
        ]
    )


def _oldest(check: Fresh, night: date) -> datetime:
    """The earliest time, of UTC, that is still fresh."""
    return datetime.combine(night + timedelta(days=1), time.min) - check.age


def _whole(value: float | None, is_open: bool, step: int) -> int | None:
    return None if value is None else int(value) + (step if is_open else 0)


def _mostly(bounds: Bounds) -> float:
    """Great Expectations decides with `mostly`; ours decides again on the exact count."""
    if bounds.unit == "percent" and bounds.high is not None:
        return max(0.0, 1 - bounds.high / 100)
    return 1.0


def _read_result(rule: DatasetRule, result: Any, night: date) -> Verdict:
    error = (result.exception_info or {}).get("exception_message")
    if error or _raised(result.exception_info):
        raise GateFailed(
            f"{rule.id}: the check could not be carried out: {error or result.exception_info}",
            rule=rule.id,
        )
    facts: Mapping[str, Any] = result.result
    match rule.check:
        case RowCount(bounds=bounds):
            rows = int(facts["observed_value"])
            return _verdict(
                rule, bounds.hold(rows), str(bounds), f"{rows:,} rows", "great_expectations"
            )
        case Fresh():
            newest = facts["observed_value"]
            expected = f"a value of {_oldest(rule.check, night).isoformat()}Z or later"
            found = "no value" if newest is None else f"newest {newest.isoformat()}Z"
            return _verdict(rule, bool(result.success), expected, found, "great_expectations")
        case RowRulesHold(rules=rules):
            bad = int(facts["unexpected_count"] or 0)
            return _verdict(
                rule,
                bad == 0,
                f"all {len(rules)} row rules hold",
                f"{bad:,} rows that break one",
                "great_expectations",
            )
        case Duplicates(bounds=bounds) | Nulls(bounds=bounds) | Invalid(bounds=bounds):
            # The count is missing where there are no rows.
            bad, total = int(facts["unexpected_count"] or 0), int(facts["element_count"])
            percent = 100 * bad / total if total else 0.0
            value = percent if bounds.unit == "percent" else bad
            found = f"{bad:,} of {total:,} rows ({percent:.2f}%)"
            return _verdict(
                rule, bounds.hold(value), f"{bounds} such rows", found, "great_expectations"
            )
    raise TypeError(f"{rule.id}: {type(rule.check).__name__} has no result")


def _raised(info: Any) -> bool:
    if not info:
        return False
    if "raised_exception" in info:
        return bool(info["raised_exception"])
    return any(_raised(inner) for inner in info.values() if isinstance(inner, dict))


def _docs_site(context: Any, docs: Path) -> str:
    docs.mkdir(parents=True, exist_ok=True)
    context.delete_data_docs_site("local_site")
    context.add_data_docs_site(
        site_name="nightjar",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs),
            },
        },
    )
    return "nightjar"


@functools.cache
def _great_expectations() -> Any:
    """Great Expectations takes seconds to import and reports home unless told not to."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        import great_expectations

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return great_expectations
