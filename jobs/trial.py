"""Candidates trained and measured on the prepared rows; --ds is the day of training.

`spark-submit jobs/trial.py PIPELINE --ds YYYY-MM-DD --candidate NAME`
"""

from nightjar.engine.job import run_job
from nightjar.engine.training import try_candidates

if __name__ == "__main__":
    run_job(lambda work: try_candidates(work, work.night))
