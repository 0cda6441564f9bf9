"""What each rank of an evaluation runs: `python -m launch.eval_worker JOB`, in an environment that names its group."""

import signal
import sys

from launch.worker import end_with_parent, explained


def main() -> int:
    """Judge as one rank of the group; JOB is an `EvalJob` as JSON."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # heads are saved each epoch, whatever ends the process
    return explained(_judge)


def _judge() -> int:
    from launch.evaluate import EvalJob, evaluate_backbone
    from trainer.distributed import initialise

    initialise()
    evaluate_backbone(EvalJob.model_validate_json(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
