"""The entry point of each rank of an evaluation: `python -m launch.evaluate.worker JOB`.

The environment names the process group of the rank.
"""

import signal
import sys

from launch.local.worker import end_with_parent, run_with_error_report


def main() -> int:
    """Evaluate as one rank of the group. JOB is an `EvalJob` as JSON."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # heads are saved each epoch, so Ctrl-C may end the process
    return run_with_error_report(_evaluate)


def _evaluate() -> int:
    from launch.evaluate.evaluation import EvalJob, evaluate_backbone
    from trainer.distributed.process_group import initialize

    initialize()
    evaluate_backbone(EvalJob.model_validate_json(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
