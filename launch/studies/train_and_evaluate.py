"""One of several runs of a study that train at the same time on this machine:
`python -m launch.studies.train_and_evaluate RUN NPROC EVALUATOR BACKBONE`."""

import signal
import sys
from pathlib import Path

from data_pipelines.errors import UserError
from launch.local.rank_processes import allow_forks
from launch.local.runs import resume_run
from launch.local.worker import end_with_parent
from launch.messages import print_error
from launch.studies.scores import OF_TRAINING, fit_regression
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import open_run


def main() -> int:
    """Train a run from its current state to the end, and evaluate it if its training did not. Return the exit code."""
    end_with_parent()
    allow_forks()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends an evaluation too
    path, nproc, evaluator, backbone = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    try:
        code = resume_run(path, [], nproc)
        if code or evaluator in OF_TRAINING or fit_regression(open_run(path), backbone):
            return code
        return 1
    except UserError as error:
        print_error(error)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
