"""The best of the tried candidates made champion, if the gate lets it; --ds is the day of training.

`spark-submit jobs/promote.py PIPELINE --ds YYYY-MM-DD`
"""

from dataclasses import replace

from nightjar.engine.job import run_job
from nightjar.engine.training import train

if __name__ == "__main__":
    # What is missing is done before; what was tried stays as it was, force or not.
    run_job(lambda work: train(replace(work, force=False), work.night))
