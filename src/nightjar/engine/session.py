"""The one place that makes the Spark session."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from nightjar.core.errors import EnvironmentFault, near

# What right answers rest on. A launcher that sets one of these otherwise is refused.
PINNED = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.mergeSchema": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.runSQLOnFiles": "false",
    "spark.speculation": "false",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
    "spark.hadoop.parquet.page.write-checksum.enabled": "true",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "1",
}
# What is quick where nobody says otherwise.
PREFERRED = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.parquet.filterPushdown": "true",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "64",
    "spark.log.level": "ERROR",
}
# Spinning OpenMP threads make Python workers several times dearer.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def under_spark_submit() -> bool:
    """Whether a launcher has started this process and holds the settings."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def start(application: str, profile: Path | None = None) -> SparkSession:
    """The Spark session of this process.

    Under spark-submit the launcher's settings stand and `profile` must be None; else the
    properties file `profile` (spark-defaults format) says where to run.

    Raises:
        EnvironmentFault: no Java 17, a setting that contradicts PINNED, or a Spark that is not
            the pyspark of this environment.
    """
    builder: SparkSession.Builder = SparkSession.builder.appName(application)
    given: dict[str, str] = {}
    if under_spark_submit():
        if profile is not None:
            raise EnvironmentFault(
                "a profile is for embedded runs; under spark-submit pass --properties-file"
            )
    else:
        require_java()
        given = read_profile(profile) if profile else {}
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if given.get("spark.master", "").startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        for name, value in _WORKER_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
            given.setdefault(f"spark.executorEnv.{name}", value)
        log_settings = profile.parent / "log4j2.properties" if profile else None
        if log_settings and log_settings.is_file():
            option = f"-Dlog4j2.configurationFile={log_settings.resolve().as_uri()}"
            given.setdefault("spark.driver.extraJavaOptions", option)
    wrong = {k: v for k, v in given.items() if k in PINNED and v.lower() != PINNED[k].lower()}
    if wrong:
        raise _contradiction(wrong, str(profile))
    running = SparkSession.getActiveSession()
    launched = dict(running.sparkContext.getConf().getAll()) if running else {}
    for key, value in PREFERRED.items():
        given.setdefault(key, launched.get(key, value))
    for key, value in {**given, **PINNED}.items():
        builder = builder.config(key, value)
    if under_spark_submit():
        builder = _respecting_launcher(builder, given)
    # It prints a JVM stack trace for each error that we report in a line of our own.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    spark = builder.getOrCreate()
    if spark.version != pyspark.__version__:
        raise EnvironmentFault(
            f"pyspark is {pyspark.__version__} but the Spark that runs is {spark.version}; "
            "use the spark-submit of the project's own environment (or unset SPARK_HOME)",
            found=spark.version,
            expected=pyspark.__version__,
        )
    return spark


def _respecting_launcher(
    builder: SparkSession.Builder, given: dict[str, str]
) -> SparkSession.Builder:
    # The JVM is up already and its SparkConf holds what the launcher said.
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()
    launcher = dict(SparkConf().getAll())
    wrong = {k: v for k, v in launcher.items() if k in PINNED and v.lower() != PINNED[k].lower()}
    if wrong:
        raise _contradiction(wrong, "the launcher's settings")
    for key, value in launcher.items():
        if key in PREFERRED:
            builder = builder.config(key, value)
    return builder


def _contradiction(wrong: dict[str, str], where: str) -> EnvironmentFault:
    shown = "; ".join(f"{k} is {v}, must be {PINNED[k]}" for k, v in sorted(wrong.items()))
    return EnvironmentFault(
        f"{where}: {shown}. Right answers rest on these; remove the setting.", found=wrong
    )


def read_profile(path: Path) -> dict[str, str]:
    """A properties file as spark-submit reads it: `key value` or `key=value`, `#` comments.

    Raises:
        EnvironmentFault: there is no such file, or a line is not a setting of Spark.
    """
    if not path.is_file():
        others = [p.stem for p in path.parent.glob("*.conf")]
        raise EnvironmentFault(f"no profile {path}; {near(path.stem, others)}")
    settings = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"(spark\.[^\s=:]+)(?:\s*[=:]\s*|\s+)(\S.*)", text)
        if not match:
            raise EnvironmentFault(f"{path}:{number}: {text!r} is no 'spark.setting value'")
        settings[match[1]] = match[2].strip()
    return settings


def require_java(oldest: int = 17) -> int:
    """The major version of the Java that Spark would start.

    Raises:
        EnvironmentFault: there is none, or it is older than `oldest`.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    advice = f"Spark needs Java {oldest} or newer: apt-get install openjdk-17-jre-headless"
    if not java or not Path(java).exists():
        raise EnvironmentFault(f"no java found. {advice}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if not match or int(match[1]) < oldest:
        found = match[1] if match else "of unknown version"
        raise EnvironmentFault(f"{java} is Java {found}. {advice}", found=found)
    return int(match[1])
