"""Repaired rows, or a changed contract or cleaning, into their night.

`spark-submit jobs/replay.py PIPELINE --ds YYYY-MM-DD [--dataset NAME --rows FILE] [--by WHO]
[--reason WHY] [--release | --no-release]`
"""

import argparse
import getpass
from pathlib import Path

from nightjar.engine.job import job_parser, run_given
from nightjar.engine.replay import Request, replay
from nightjar.engine.work import Work

if __name__ == "__main__":
    parser = job_parser()
    parser.add_argument("--dataset", help="the source of the edited rows")
    parser.add_argument("--rows", type=Path, help="an exported file with repaired rows")
    parser.add_argument("--by", default=getpass.getuser(), help="who repairs")
    parser.add_argument("--reason", default="", help="why, where the rows do not say")
    parser.add_argument("--release", action=argparse.BooleanOptionalAction)
    given = parser.parse_args()

    def mend(work: Work) -> None:
        asked = (given.dataset, given.rows, given.by, given.reason, given.release)
        work.say(str(replay(work, Request(work.night, *asked))))

    run_given(mend, given)
