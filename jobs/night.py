"""A whole night, every stage in one session.

`spark-submit jobs/night.py PIPELINE --ds YYYY-MM-DD`
"""

from nightjar.engine.job import run_job
from nightjar.engine.night import run_night

if __name__ == "__main__":
    run_job(run_night)
