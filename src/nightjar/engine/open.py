"""Opening the work of one run: the session, and what is checked before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date

from nightjar.core.errors import SpecError
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.engine.session import start, under_spark_submit
from nightjar.engine.trainers import candidate_faults
from nightjar.engine.work import Work


@contextmanager
def open_work(
    project: Project,
    plan: Plan,
    nights: Sequence[date],
    profile: str = "local",
    say: Callable[[str], None] = print,
    force: bool = False,
    chosen: tuple[str, ...] = (),
    model: str | None = None,
) -> Iterator[Work]:
    """A run's work over a Spark session that ends with the block.

    Raises:
        SpecError: an estimator or one of its parameters is wrong.
        EnvironmentFault: Spark cannot run here as it must.
    """
    faults = candidate_faults(plan)
    if faults:
        raise SpecError(faults=faults)
    file = None if under_spark_submit() else project.root / "spark-conf" / f"{profile}.conf"
    name = f"nightjar {plan.spec.name} {nights[0]}" + (
        f" to {nights[-1]}" if len(nights) > 1 else ""
    )
    spark = start(name, file)
    try:
        yield Work(project, plan, tuple(nights), spark, say, force, chosen, model)
    finally:
        spark.stop()
