"""Trains a run of a study beside others on this machine:
`python -m launch.studies.train_run RUN NPROC EVALUATOR BACKBONE`."""

import sys
from pathlib import Path

from data_pipelines.errors import UserError
from launch.local.runs import resume_run
from launch.local.side_by_side import begin_process
from launch.messages import print_error
from launch.studies.scores import OF_TRAINING, fit_regression
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import open_run


def main() -> int:
    """Train a run from its current state to the end, and evaluate it if its training did not. Return the exit code."""
    begin_process()
    path, nproc, evaluator, backbone = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    try:
        code = resume_run(path, [], nproc)
        if code or evaluator in OF_TRAINING:
            return code
        return int(not fit_regression(open_run(path), backbone))
    except UserError as error:
        print_error(error)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
