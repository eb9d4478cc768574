"""The one module that knows Airflow: neutral records become DAGs, and tasks run spark-submit.

Parsing reads pipelines and contracts and nothing else: no connection, variable, clock or engine.
What belongs to a deployment (which cluster, which addresses) is looked up when a task runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    BaseOperatorLink,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    TaskGroup,
    Variable,
    get_current_context,
    task,
)
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)
from pydantic import BaseModel, ConfigDict

from nightjar.core.errors import DamagedRelease, NotThereYet, UsageError
from nightjar.core.plan import Plan, load_plan
from nightjar.core.project import Project
from nightjar.core.records import Record, RecordBook
from nightjar.core.releases import ReleaseLog
from nightjar.orchestration import launch, tasks
from nightjar.orchestration.params import REQUESTS, NotAsked, RepairRequest

JOB_ENVIRONMENT = "NIGHTJAR_JOB_ENVIRONMENT"
SETTINGS = "nightjar"
# Exit statuses that the same task would only repeat. All others may pass: 4, another run may make
# what is missing; 5, another run came first; 1 and signals, Spark or the machine failed.
FINAL = {
    2: "the request, a pipeline, a contract or a setting is wrong",
    3: "the data was refused",
    6: "this very result was released and rolled back",
}


# -- DAGs -----------------------------------------------------------------------------------------


def project_dags(root: Path) -> dict[str, DAG]:
    """The DAGs of every pipeline of the project at `root`, by their ids.

    A pipeline that cannot be used becomes an import error of its own, under the name of its file;
    the others' DAGs are as they were.
    """
    project = Project.find(root)
    dags: dict[str, DAG] = {}
    for name in project.pipeline_names():
        try:
            made = pipeline_dags(project, load_plan(project, name))
        except Exception as error:
            made = _broken(project, name, error)
        dags.update({dag.dag_id: dag for dag in made})
    return dags


def pipeline_dags(project: Project, plan: Plan) -> list[DAG]:
    """A pipeline's nights, its training, its repairs, and the consumer of its releases."""
    return [
        _dag(project, plan, tasks.nightly(plan)),
        _dag(project, plan, tasks.training(plan)),
        _dag(project, plan, tasks.repairs(plan)),
        _consumer(project, plan),
    ]


def release_asset(plan: Plan) -> Asset:
    """What a release of the pipeline is to Airflow."""
    name = plan.scores.dataset
    return Asset(name=name, uri=f"nightjar://{plan.spec.name}/{name}", group="nightjar")


def _dag(project: Project, plan: Plan, schedule: tasks.Schedule) -> DAG:
    settings = plan.spec.orchestration
    request = REQUESTS[schedule.kind]
    params = {name: Param(**schema) for name, schema in request.schemas(plan).items()}
    failed = [_notifier(plan)] if settings.notify else None
    with DAG(
        schedule.id,
        description=plan.spec.description or None,
        doc_md=schedule.doc,
        schedule=CronDataIntervalTimetable(schedule.cron, "UTC") if schedule.cron else None,
        start_date=_midnight(schedule.start),
        end_date=_midnight(schedule.end) if schedule.end else None,
        catchup=False,
        max_active_runs=1,
        params=params,
        tags=["nightjar", plan.spec.name],
        deadline=_deadline(plan) if schedule.kind == "nightly" else None,
        default_args={
            "pool": settings.pool,
            "retries": settings.retries,
            "retry_delay": settings.retry_after,
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": settings.retry_at_most,
            "execution_timeout": settings.timeout,
            "on_failure_callback": failed,
        },
    ) as dag:
        groups: dict[str, TaskGroup] = {}
        made: dict[str, BaseOperator | MappedOperator] = {}
        for one in schedule.tasks:
            if one.source and one.source not in groups:
                groups[one.source] = TaskGroup(one.source)
            common: dict[str, Any] = {
                "task_id": one.job,
                "task_group": groups.get(one.source),
                "doc_md": tasks.describe_task(plan, one),
                "project": str(project.root),
                "warehouse": str(project.warehouse),
                "pipeline": plan.spec.name,
                "trigger_rule": "none_failed",
                "outlets": [release_asset(plan)] if one.releases else [],
            }
            submitted: dict[str, Any] = {
                **common,
                "kind": schedule.kind,
                "job": one.job,
                "source": one.source,
                "connection": settings.connection,
                "profile": settings.profile,
            }
            if not one.submitted:
                made[one.id] = ChangeRelease(pool="default_pool", **common)
            elif one.candidates:
                mapped = SubmitJob.partial(**submitted, map_index_template="{{ task.candidate }}")
                made[one.id] = mapped.expand(candidate=list(one.candidates))
            else:
                made[one.id] = SubmitJob(**submitted)
            for before in one.after:
                made[before] >> made[one.id]
    return dag


def _consumer(project: Project, plan: Plan) -> DAG:
    """What a team that reads releases would write: it runs when a release has landed."""
    asset = release_asset(plan)
    root, warehouse, pipeline = str(project.root), str(project.warehouse), plan.spec.name
    with DAG(
        f"{pipeline}_released",
        description=f"Runs whenever {asset.name} has a new release.",
        doc_md=f"Reads what the release of `{asset.name}` says of itself, as any reader may: its "
        "id comes with the asset's event; the release behind it never changes.",
        schedule=[asset],
        start_date=_midnight(plan.spec.orchestration.start),
        catchup=False,
        tags=["nightjar", pipeline],
    ) as dag:

        @task(doc_md="Looks the released night up in the release's manifest.")  # type: ignore[untyped-decorator]
        def read_release() -> dict[str, Any]:
            events = get_current_context()["triggering_asset_events"][asset]
            told = events[-1].extra
            log = ReleaseLog(Project.find(Path(root), Path(warehouse)).warehouse, pipeline)
            release = log.require(told["release"])
            night = release.partitions[told["ds"]]
            return {
                "release": release.id,
                "rows": sum(int(f["rows"]) for f in night["files"].values()),
                "model": night["model"]["version"],
            }

        read_release()
    return dag


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _notifier(plan: Plan) -> Any:
    """The notifier that the pipeline names, made as it says."""
    notify = plan.spec.orchestration.notify
    assert notify is not None
    module, _, name = notify.notifier.rpartition(".")
    return getattr(importlib.import_module(module), name)(**notify.arguments)


def _deadline(plan: Plan) -> DeadlineAlert | None:
    settings = plan.spec.orchestration
    notify = settings.notify
    if settings.released_by is None or notify is None:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=settings.released_by,
        callback=SyncCallback(notify.notifier, notify.arguments),
    )


# -- pipelines that cannot be used ----------------------------------------------------------------


class _BrokenPipeline(DAG):
    """Stands where a pipeline's DAGs would: serializing it is the import error.

    An error of the file in dags/ would take every DAG of that file out of service. Airflow files
    an error of serialization under the DAG's own relative location: here, the pipeline's file.
    """

    def __init__(self, name: str, location: str, error: Exception) -> None:
        super().__init__(f"{name}_nightly", schedule=None)
        object.__setattr__(self, "_location", location)
        object.__setattr__(self, "_error", error)

    @property
    def relative_fileloc(self) -> str:
        return str(self._location)

    @relative_fileloc.setter
    def relative_fileloc(self, value: str | None) -> None:
        """Airflow says the file that it read; the fault is elsewhere."""

    def get_serialized_fields(self) -> frozenset[str]:
        raise self._error


def _broken(project: Project, name: str, error: Exception) -> list[DAG]:
    file = f"pipelines/{name}.yaml"
    if "airflow.dag_processing.processor" not in sys.modules:
        # A command, not the DAG processor: there one such DAG would end the whole command.
        warnings.warn(f"{file} gives no DAG: {error}", stacklevel=2)
        return []
    return [_BrokenPipeline(name, file, error)]


# -- running a task -------------------------------------------------------------------------------


class Deployment(BaseModel):
    """What belongs to a deployment: the Airflow variables `nightjar` and `nightjar_PIPELINE`.

    `connection` and `profile` replace the pipeline's; the addresses are where a browser finds the
    warehouse's files, MLflow and Spark's history server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str | None = None
    profile: str | None = None
    files_url: str | None = None
    mlflow_url: str | None = None
    spark_url: str | None = None

    @classmethod
    def of(cls, pipeline: str) -> Deployment:
        """The settings of a pipeline; its own variable wins over the general one."""
        said: dict[str, Any] = {}
        for name in (SETTINGS, f"{SETTINGS}_{pipeline}"):
            said |= Variable.get(name, default={}, deserialize_json=True)
        return cls.model_validate(said)


class _Submit(SparkSubmitHook):
    """spark-submit of the job environment, that ends with its task and knows nothing of Airflow."""

    def __init__(self, environment: Path, folder: Path, **kwargs: Any) -> None:
        self.environment, self.folder = environment, folder
        super().__init__(spark_binary=str(environment / "bin" / "spark-submit"), **kwargs)

    def _get_spark_binary_path(self) -> list[str]:
        launcher = [sys.executable, "-I", launch.__file__, str(os.getpid())]
        return [*launcher, *super()._get_spark_binary_path()]

    def submit(self, application: str = "", **kwargs: Any) -> str | None:
        kwargs |= {"env": job_environment(self.environment), "cwd": self.folder}
        # A session of its own: Airflow's signals to the task's group do not reach the launcher,
        # which must stay to end what it launched; that the task is gone it hears from the kernel.
        result: str | None = super().submit(application, start_new_session=True, **kwargs)
        return result

    def on_kill(self) -> None:
        if self._submit_sp and self._submit_sp.poll() is None:
            self._submit_sp.terminate()
            self._submit_sp.wait(4 * launch.GRACE)
        super().on_kill()  # a driver on the cluster

    @property
    def exit_status(self) -> int | None:
        """The job's exit status; None before it ended."""
        return self._submit_sp.returncode if self._submit_sp else None


def job_environment(environment: Path) -> dict[str, str]:
    """What the driver sees of this process's environment: nothing of Airflow.

    Airflow's variables hold connections, keys and the address of its database.
    """
    python = str(environment / "bin" / "python")
    kept = {
        name: value
        for name, value in os.environ.items()
        if "AIRFLOW" not in name and name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    kept["PATH"] = f"{environment / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept.setdefault("PYSPARK_PYTHON", python)
    kept["PYSPARK_DRIVER_PYTHON"] = python
    return kept


class _RecordLink(BaseOperatorLink):
    """A link made of what the task's records say, once they are there."""

    def get_link(self, operator: SubmitJob, *, ti_key: Any) -> str:
        try:
            return self.address(operator) or ""
        except Exception as error:  # a link must not fail a task that did its work
            operator.log.warning("no link %s: %s", self.name, error)
            return ""

    def address(self, operator: SubmitJob) -> str | None:
        raise NotImplementedError


class DataDocsLink(_RecordLink):
    """The Great Expectations report of what the task looked at."""

    name = "Data Docs"

    def address(self, operator: SubmitJob) -> str | None:
        base = operator.deployment.files_url or Path(operator.warehouse).as_uri()
        docs = [r.details["docs"] for r in operator.records() if r.details.get("docs")]
        return f"{base.rstrip('/')}/{quote(docs[0])}" if docs else None


class MLflowLink(_RecordLink):
    """The MLflow run of the model that the task used or made."""

    name = "MLflow run"

    def address(self, operator: SubmitJob) -> str | None:
        base = operator.deployment.mlflow_url
        for record in operator.records():
            details = record.details
            best = details.get("candidates", {}).get(details.get("best"), {})
            run = details.get("model_run") or details.get("run") or best.get("run")
            if run and base:
                return f"{base.rstrip('/')}/#/runs/{quote(run)}"
        return None


class SparkLink(_RecordLink):
    """The Spark application in the history server."""

    name = "Spark UI"

    def address(self, operator: SubmitJob) -> str | None:
        base = operator.deployment.spark_url
        ids = [r.spark_application for r in operator.records() if r.spark_application]
        return f"{base.rstrip('/')}/history/{quote(ids[0])}/jobs/" if ids and base else None


class SubmitJob(SparkSubmitOperator):
    """Runs one entry point of jobs/ by spark-submit, in the job environment.

    Data faults are final at once; what can pass by itself is retried. A retry may meet a writer
    that still lives: each writes to attempts of its own, and only one result is published.
    """

    template_fields: Sequence[str] = ("application", "application_args")
    overwrite_rtif_after_execution = True
    operator_extra_links = (DataDocsLink(), MLflowLink(), SparkLink())
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        project: str,
        warehouse: str,
        pipeline: str,
        kind: str,
        job: str,
        connection: str,
        profile: str,
        source: str = "",
        candidate: str = "",
        **kwargs: Any,
    ) -> None:
        name = ".".join(part for part in (pipeline, source, job, candidate) if part)
        super().__init__(name=name, conn_id=connection, durable=False, **kwargs)
        self.project, self.warehouse, self.pipeline = project, warehouse, pipeline
        self.kind, self.job_name, self.source, self.candidate = kind, job, source, candidate
        self.connection, self.profile = connection, profile
        self._night: date | None = None

    @property
    def job(self) -> tasks.Task:
        return tasks.Task(self.job_name, self.source, candidate=self.candidate)

    @property
    def deployment(self) -> Deployment:
        return Deployment.of(self.pipeline)

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any] | None:
        """Submit the job and wait for its end.

        Returns a few facts for whoever comes after: of a release its id, rows and model.
        """
        with _asked():
            request = REQUESTS[self.kind].of(context["params"])
            interval = _interval(context)
            arguments = request.arguments(self.job, interval)
            job = request.job(self.job)
            self._night = request.night(interval)
            if isinstance(request, RepairRequest):
                arguments += [f"--by={context['dag_run'].triggering_user_name or 'airflow'}"]
                if rows := request.file(Path(self.warehouse)):
                    arguments += [f"--rows={rows}"]
        self.application = str(Path(self.project) / "jobs" / f"{job}.py")
        self.application_args = [
            self.pipeline, *arguments, "--project", self.project, "--warehouse", self.warehouse,
        ]  # fmt: skip
        deployment = self.deployment
        self.connection = deployment.connection or self.connection
        self.profile = deployment.profile or self.profile
        self._hook = hook = self._get_hook()
        if request.dry_run:
            hook._build_spark_submit_command(self.application)  # says it in the log
            raise AirflowSkipException("a dry run: nothing was run")
        try:
            super().execute(context)
        except AirflowException as error:
            said = FINAL.get(hook.exit_status or 0)
            if said is None:
                raise
            raise AirflowFailException(
                f"{said} (exit status {hook.exit_status}); trying again would not help. What is "
                f"wrong stands in the log above.{hook._submit_log_tail}"
            ) from error
        told = self._released() if tasks.Task(job).releases else None
        return _tell(context, told)

    def records(self) -> list[Record]:
        """The records of the steps that this task did."""
        if self._night is None:
            return []
        book = RecordBook(Path(self.warehouse), self.pipeline)
        folder = book.folder / self._night.isoformat()
        files = [p for name in self.job.records for p in sorted(folder.glob(f"{name}.json"))]
        found = [book.get(self._night, path.stem) for path in files]
        return [record for record in found if record is not None]

    def _released(self) -> dict[str, Any] | None:
        """What is to be told of the night's release; a replayed night may be history alone."""
        assert self._night is not None
        book = RecordBook(Path(self.warehouse), self.pipeline)
        published, scored = book.get(self._night, "publish"), book.get(self._night, "score")
        if published is None or scored is None:
            return None
        return {
            "release": published.details["release"],
            "ds": self._night.isoformat(),
            "rows": published.counts["rows"],
            "model": scored.details["model"],
        }

    def _get_hook(self) -> _Submit:
        root = Path(self.project)
        try:
            _Submit.get_connection(self.connection)
        except AirflowNotFoundException as error:  # the provider would take YARN instead
            raise AirflowFailException(
                f"Airflow has no connection {self.connection!r}, so it is not known where to run. "
                f"Make it: airflow connections add {self.connection} --conn-type spark "
                "--conn-host 'local[*]' (or spark://HOST:PORT, or yarn)"
            ) from error
        profile = root / "spark-conf" / f"{self.profile}.conf"
        if not profile.is_file():
            known = ", ".join(sorted(p.stem for p in profile.parent.glob("*.conf")))
            raise AirflowFailException(
                f"no profile {self.profile!r} in spark-conf/; known: {known}"
            )
        archive = root / "dist" / "nightjar.zip"
        where = os.environ.get(JOB_ENVIRONMENT) or str(root / ".venv")
        hook = _Submit(
            Path(where),
            root,
            conf=self.conf,
            conn_id=self.connection,
            name=self.name,
            properties_file=str(profile),
            py_files=str(archive) if archive.is_file() else None,
            application_args=self.application_args,
        )
        if hook._connection["deploy_mode"] == "cluster":
            if hook._should_track_driver_status:
                raise AirflowFailException(
                    f"connection {self.connection!r} asks for cluster mode, which a standalone "
                    "cluster does not do for Python: set its deploy-mode to client"
                )
            # The submitting JVM need not stay: what became of the driver the cluster knows.
            hook._yarn_track_via_rm_api = hook._is_yarn
            hook._track_driver_via_k8s_api = hook._is_kubernetes
        return hook


class ChangeRelease(BaseOperator):
    """Rolls back, pins or unpins: one entry in the log of releases, without Spark."""

    ui_color = "#e4e8f0"

    def __init__(self, *, project: str, warehouse: str, pipeline: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.project, self.warehouse, self.pipeline = project, warehouse, pipeline

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change the log as the run asks; of a rollback, tell what readers see now."""
        log = ReleaseLog(Path(self.warehouse), self.pipeline)
        with _asked():
            request = RepairRequest.of(context["params"])
            request.require("change_release")
            assert request.release is not None
            seen, chosen = log.require(), log.require(request.release)
            if request.dry_run:
                raise AirflowSkipException(
                    f"a dry run: {request.what} {chosen.id}; readers see {seen.id}"
                )
            if request.what == "pin":
                log.pin(chosen.id, request.reason)
            elif request.what == "unpin":
                log.unpin(chosen.id)
            else:
                log.rollback(chosen.id)
        self.log.info("%s %s; readers saw %s", request.what, chosen.id, seen.id)
        night = chosen.partitions[chosen.ds]
        told = {
            "release": chosen.id,
            "ds": chosen.ds,
            "rows": sum(int(file["rows"]) for file in night["files"].values()),
            "model": night["model"]["version"],
        }
        return _tell(context, told if request.what == "rollback" else None)


@contextmanager
def _asked() -> Iterator[None]:
    """What a run asks for and nobody can do is final at once; what it does not ask for is skipped.

    A conflict or a fault of the storage passes, so it is tried again.
    """
    try:
        yield
    except NotAsked as reason:
        raise AirflowSkipException(str(reason)) from reason
    except (UsageError, NotThereYet, DamagedRelease) as error:
        raise AirflowFailException(str(error)) from error


def _tell(context: Mapping[str, Any], told: dict[str, Any] | None) -> dict[str, Any] | None:
    """Tell of a release: to its asset's consumers, and as the task's result."""
    task = context["task"]
    if told is None:
        task.outlets = []  # to Airflow a task's assets change whenever it succeeds
    for asset in task.outlets:
        context["outlet_events"][asset].extra.update(told)
    return told


def _interval(context: Mapping[str, Any]) -> tuple[date, date] | None:
    run = context["dag_run"]
    if run.data_interval_start is None or run.data_interval_end is None:
        return None
    return (
        run.data_interval_start.astimezone(UTC).date(),
        run.data_interval_end.astimezone(UTC).date(),
    )
