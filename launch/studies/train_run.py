"""Trains a run of a study beside others on this machine:
`python -m launch.studies.train_run RUN NPROC EVALUATOR BACKBONE`."""

import sys
from pathlib import Path

from launch.local.runs import resume_run
from launch.local.side_by_side import run_process
from launch.studies.scores import OF_TRAINING, fit_regression
from trainer.runs.run_folder import open_run


def train() -> int:
    """Train a run from its current state to the end, and evaluate it if its training did not. Return the exit code."""
    path, nproc, evaluator, backbone = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    code = resume_run(path, [], nproc)
    if code or evaluator in OF_TRAINING:
        return code
    return int(not fit_regression(open_run(path), backbone))


if __name__ == "__main__":
    sys.exit(run_process(train))
