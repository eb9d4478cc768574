"""Models: tracked and registered with MLflow, found by alias, checked before they are used.

By default MLflow keeps its books in a SQLite file of the warehouse; MLFLOW_TRACKING_URI names
another server. A registered model is a folder: the trainer's own format, `model.json` (what it
was learnt from) and `golden.parquet` (rows with the scores that it gave when it was trained).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from nightjar.core.errors import GoldenMismatch, NotThereYet, near
from nightjar.core.pipeline import Pipeline
from nightjar.core.project import Project

CHAMPION = "champion"


@dataclass(frozen=True)
class RegisteredModel:
    """One version of a pipeline's model. `folder` is readable by every executor."""

    name: str
    version: str
    run_id: str
    digest: str
    folder: Path
    facts: dict[str, Any]

    @property
    def label(self) -> str:
        """How scores and manifests name it."""
        return f"{self.name}/{self.version}"

    def misfit(self, spec: Pipeline) -> str:
        """Why the model cannot serve the pipeline as it is now; empty where it can."""
        learnt, now = self.facts["features"], spec.features
        for group, names in (("numeric", now.numeric), ("categorical", now.categorical)):
            gone = [name for name in learnt[group] if name not in names]
            if gone:
                return f"it reads the {group} features {', '.join(gone)}, which there are no more"
        label = self.facts["label"]
        kind, classes = label.get("kind", "binary"), tuple(label.get("classes", ()))
        if (label["name"], kind, classes) != (spec.label.name, spec.label.kind, spec.label.classes):
            what = " ".join([kind, *classes])
            return f"it predicts '{label['name']}' ({what}), which is not the label any more"
        return ""


class Registry:
    """The tracked runs and the registered models of one pipeline."""

    def __init__(self, project: Project, pipeline: str) -> None:
        self.project = project
        self.pipeline = pipeline
        mlflow = _mlflow()
        home = project.warehouse / "mlflow"
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            home.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{home / 'mlflow.db'}"
        self.uri = uri
        # Not mlflow.set_tracking_uri: it holds for the whole process, other projects included.
        with _quietly():
            self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def experiment(self) -> str:
        """The id of the pipeline's experiment, which is made where there is none."""
        with _quietly():
            found = self.client.get_experiment_by_name(self.pipeline)
            if found:
                return str(found.experiment_id)
            artifacts = (self.project.warehouse / "mlflow" / "artifacts" / self.pipeline).as_uri()
            return str(self.client.create_experiment(self.pipeline, artifact_location=artifacts))

    @contextlib.contextmanager
    def run(self, name: str, tags: dict[str, str]) -> Iterator[str]:
        """A tracked run, by its id; marked failed where its block raises."""
        with _quietly():
            run_id = self.client.create_run(self.experiment(), run_name=name, tags=tags).info.run_id
        try:
            yield run_id
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id)

    def log(self, run_id: str, params: dict[str, Any], metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric, Param

        finite = {k: float(v) for k, v in metrics.items() if v == v}
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, 0, 0) for k, v in finite.items()],
            params=[Param(k, str(v)[:6000]) for k, v in params.items()],
        )

    def log_file(self, run_id: str, file: Path) -> None:
        self.client.log_artifact(run_id, str(file))

    def store(self, run_id: str, folder: Path) -> str:
        """Keep a model folder with its run; returns its digest."""
        digest = tree_digest(folder)
        self.client.log_artifacts(run_id, str(folder), "model")
        self.client.set_tag(run_id, "model_sha256", digest)
        return digest

    def register(self, run_id: str) -> RegisteredModel:
        """A new version of the pipeline's model, from a run that stored one."""
        with _quietly():
            if not self.client.search_registered_models(f"name = '{self.pipeline}'"):
                self.client.create_registered_model(self.pipeline)
            run = self.client.get_run(run_id)
            version = self.client.create_model_version(
                self.pipeline,
                source=f"{run.info.artifact_uri}/model",
                run_id=run_id,
                tags={"sha256": run.data.tags["model_sha256"]},
            )
        return self._model(version)

    def promote(self, model: RegisteredModel) -> None:
        """Make `model` the champion."""
        self.client.set_registered_model_alias(self.pipeline, CHAMPION, model.version)

    def champion(self) -> RegisteredModel | None:
        """The pipeline's champion; None before the first promotion."""
        from mlflow.exceptions import MlflowException

        with _quietly():
            try:
                version = self.client.get_model_version_by_alias(self.pipeline, CHAMPION)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return self._model(version)

    def require_champion(self) -> RegisteredModel:
        """Raises NotThereYet before the first promotion."""
        model = self.champion()
        if model is None:
            raise NotThereYet(
                f"pipeline '{self.pipeline}' has no champion model, so a night cannot be scored; "
                f"train one first: nightjar train {self.pipeline} --as-of YYYY-MM-DD",
                pipeline=self.pipeline,
            )
        return model

    def version(self, number: str) -> RegisteredModel:
        """A registered version of the pipeline's model, champion or not.

        Raises:
            NotThereYet: there is no such version.
        """
        with _quietly():
            found = self.client.search_model_versions(f"name = '{self.pipeline}'")
        for version in found:
            if str(version.version) == number:
                return self._model(version)
        known = [str(version.version) for version in found]
        raise NotThereYet(
            f"pipeline '{self.pipeline}' has no model version {number!r}; {near(number, known)}",
            pipeline=self.pipeline,
        )

    def _model(self, version: Any) -> RegisteredModel:
        folder = self._local(version.source)
        digest = version.tags.get("sha256", "")
        found = tree_digest(folder)
        if found != digest:
            raise GoldenMismatch(
                f"the files of model {version.name}/{version.version} in {folder} are not those "
                f"that were registered (sha256 {found[:12]}, registered {digest[:12]}). Restore "
                "them, or train and promote again.",
                model=f"{version.name}/{version.version}",
            )
        facts = json.loads((folder / "model.json").read_text())
        return RegisteredModel(
            version.name, str(version.version), version.run_id, digest, folder, facts
        )

    def _local(self, source: str) -> Path:
        """A folder that executors can read: the artifact itself, or a copy in the warehouse."""
        parsed = urlparse(source)
        if parsed.scheme in ("", "file"):
            return Path(unquote(parsed.path))
        name = hashlib.sha256(source.encode()).hexdigest()[:16]
        copy = self.project.warehouse / "mlflow" / "fetched" / name
        if not copy.is_dir():
            import mlflow.artifacts

            partial = copy.with_name(f".{name}-{os.getpid()}")
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(partial), tracking_uri=self.uri
            )
            inner = next(partial.iterdir()) if not (partial / "model.json").exists() else partial
            with contextlib.suppress(OSError):  # another run fetched it first
                inner.rename(copy)
            shutil.rmtree(partial, ignore_errors=True)
        return copy


def tree_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files; hidden files do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    with _quietly():
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
