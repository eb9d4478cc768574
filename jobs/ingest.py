"""Delivered files to bronze: `spark-submit jobs/ingest.py PIPELINE --ds YYYY-MM-DD`."""

from nightjar.engine.job import run_job
from nightjar.engine.night import STAGES

if __name__ == "__main__":
    run_job(STAGES["ingest"])
