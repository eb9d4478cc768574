"""Candidates trained on the loaded nights; --ds is the day of training.

`spark-submit jobs/train.py PIPELINE --ds YYYY-MM-DD`
"""

from nightjar.engine.job import run_job
from nightjar.engine.training import train

if __name__ == "__main__":
    run_job(lambda work: train(work, work.night))
