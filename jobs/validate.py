"""The gate on silver: `spark-submit jobs/validate.py PIPELINE --ds YYYY-MM-DD`."""

from nightjar.engine.job import run_job
from nightjar.engine.night import STAGES

if __name__ == "__main__":
    run_job(STAGES["validate"])
