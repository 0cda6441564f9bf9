"""Trains a trial beside others on this machine: `python -m launch.tuning.train_trial RUN NPROC`.

The search that has started it has drawn its settings.
"""

import sys
from pathlib import Path

from launch.local.side_by_side import run_process
from launch.tuning.run_trial import run_trial
from launch.tuning.search import Search
from trainer.runs.run_folder import RunFolder


def train() -> int:
    """Train a trial from its current state until it ends or has fallen behind. Return the exit code."""
    run = RunFolder(Path(sys.argv[1]))
    return run_trial(Search.open(run.path.parent), run, int(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(run_process(train))
