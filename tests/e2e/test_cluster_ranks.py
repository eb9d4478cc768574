"""Ranks of Horovod on the executors of a real standalone cluster."""

import json
import os
from pathlib import Path

import pytest
from tests.conformance.candidates import needs_deep
from tests.e2e.cluster import standalone, submit
from tests.e2e.project import AS_OF, ROOT

from nightjar.demo import PIPELINE

DEEP = """
  deep:
    trainer: horovod_keras
    workers: 2
    network: {layers: [{dense: 16}]}
    epochs: 2
    batch_size: 1024
    learning_rate: 0.005
    class_weights: balanced

gate:"""


@needs_deep
@pytest.mark.slow  # a whole training, on one core a worker
def test_a_network_is_learnt_on_two_executors_that_have_nightjar_from_the_zip(
    copy_of_trained: Path, tmp_path: Path
) -> None:
    project = copy_of_trained
    spec = project / "pipelines" / f"{PIPELINE}.yaml"
    spec.write_text(spec.read_text().replace("\ngate:", DEEP))
    job = project / "jobs" / "train.py"
    arguments = [job, PIPELINE, "--ds", str(AS_OF), "--candidate", "deep", "--project", project]
    profile = project / "spark-conf" / "standalone.conf"
    # One core a worker: two tasks at the same time are on two executors.
    with standalone(tmp_path, [("--cores", "1")] * 2) as master:
        done = submit(master, tmp_path, profile, arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    record = json.loads(
        (project / "warehouse" / "runs" / PIPELINE / str(AS_OF) / "train.json").read_text()
    )
    assert record["spark_application"].startswith("app-")
    (trial,) = record["details"]["candidates"].values()
    notes = trial["notes"]
    assert (notes["workers"], notes["epochs"]) == (2, 2)
    assert notes["rows"] + notes["held_out_rows"] == record["counts"]["train rows"]
    assert notes["history"]["loss"][1] < notes["history"]["loss"][0]
    assert trial["metrics"]["roc_auc"] > 0.6
    for worker in ("worker1", "worker2"):
        assert len(list((tmp_path / worker).glob("app-*/*/nightjar.zip"))) == 1
    left = project / "warehouse" / "training" / PIPELINE / "resume"
    assert list(left.iterdir()) == []


@needs_deep
def test_each_rank_has_a_gpu_of_its_own_that_sparks_worker_found(tmp_path: Path) -> None:
    # No GPU here: what names them is made up, all that hands them out is Spark's.
    named = tmp_path / "bin" / "nvidia-smi"
    named.parent.mkdir()
    named.write_text("#!/bin/sh\nprintf '3\\n5\\n'\n")
    named.chmod(0o755)
    offered = (ROOT / "spark-conf" / "gpu-worker.properties").read_text()
    properties = tmp_path / "worker.properties"
    properties.write_text(offered.replace("gpu.amount          1", "gpu.amount 2"))
    application = tmp_path / "ranks.py"
    application.write_text(ASK)
    path = {"PATH": f"{named.parent}:{os.environ['PATH']}"}
    worker = ("--cores", "2", "--properties-file", str(properties))
    profile = ROOT / "spark-conf" / "gpu.conf"
    small = {"spark.executor.cores": "1", "spark.task.cpus": "1"}
    with standalone(tmp_path, [worker], path) as master:
        done = submit(master, tmp_path, profile, [application], small)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.splitlines()[-1] == "[['3'], ['5']]"


ASK = """
import horovod.spark
from nightjar.engine.session import start

spark = start("ranks")


def given():
    import sys

    sys.path.insert(0, "nightjar.zip")
    from nightjar.engine.trainers.horovod_keras import collective

    return collective.gpus()


found = horovod.spark.run(given, num_proc=2, use_gloo=True, verbose=0,
                          executable=spark.sparkContext.pythonExec)
print(sorted(found))
spark.stop()
"""
