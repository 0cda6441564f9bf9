"""What a job of a study does once its run is trained: `python -m launch.studies.evaluate_run BACKBONE RUN`."""

import sys
from pathlib import Path

from launch.studies.scores import fit_regression, is_finished
from trainer.runs.run_folder import open_run


def main() -> int:
    """Judge the run on the machine that trained it, if it has come to its end. Returns the exit code."""
    backbone, run = sys.argv[1], open_run(Path(sys.argv[2]))
    return int(is_finished(run) and not fit_regression(run, backbone))


if __name__ == "__main__":
    sys.exit(main())
