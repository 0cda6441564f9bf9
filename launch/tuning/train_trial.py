"""Trains a trial beside others on this machine: `python -m launch.tuning.train_trial RUN NPROC`.

The search that has started it has drawn its settings.
"""

import sys
from pathlib import Path

from launch.local.side_by_side import begin_process
from launch.tuning.run_trial import run_trial
from launch.tuning.search import Search
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder


def main() -> int:
    """Train a trial from its current state until it ends or has fallen behind. Return the exit code."""
    begin_process()
    run = RunFolder(Path(sys.argv[1]))
    try:
        return run_trial(Search.open(run.path.parent), run, int(sys.argv[2]))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
