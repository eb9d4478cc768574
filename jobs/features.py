"""Feature rows of a night: `spark-submit jobs/features.py PIPELINE --ds YYYY-MM-DD`."""

from nightjar.engine.job import run_job
from nightjar.engine.night import STAGES

if __name__ == "__main__":
    run_job(STAGES["features"])
