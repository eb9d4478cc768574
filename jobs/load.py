"""A range of nights ingested, cleaned and validated as history.

`spark-submit jobs/load.py PIPELINE --ds YYYY-MM-DD`
"""

from nightjar.engine.job import run_job
from nightjar.engine.night import load

if __name__ == "__main__":
    run_job(load)
