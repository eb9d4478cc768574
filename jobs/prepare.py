"""The rows of a training, to learn from and to test on; --ds is the day of training.

`spark-submit jobs/prepare.py PIPELINE --ds YYYY-MM-DD`
"""

from nightjar.engine.job import run_job
from nightjar.engine.training import prepare

if __name__ == "__main__":
    run_job(lambda work: prepare(work, work.night))
