"""The last task of a study's job, after its run is trained: `python -m launch.studies.evaluate_run BACKBONE RUN`."""

import sys
from pathlib import Path

from launch.studies.scores import fit_regression, is_finished
from trainer.runs.run_folder import open_run


def main() -> int:
    """Evaluate the run on the node that trained it, if it is finished. Return the exit code."""
    backbone, run = sys.argv[1], open_run(Path(sys.argv[2]))
    return int(is_finished(run) and not fit_regression(run, backbone))


if __name__ == "__main__":
    sys.exit(main())
