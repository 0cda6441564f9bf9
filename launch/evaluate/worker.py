"""What each rank of an evaluation does. The environment describes its process group."""

import signal
import sys
from collections.abc import Callable

from launch.local.imports import collector_paused
from launch.local.rank_processes import heed_signals
from launch.local.worker import end_with_parent, run_with_error_report


def import_all() -> None:
    """Import what a rank needs, so that forks of this process need not."""
    import launch.evaluate.evaluation  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed

    import_deepspeed()


def main() -> int:
    """Evaluate as one rank. `sys.argv[1]` is an `EvalJob` as JSON. Returns the exit code."""
    return run_as_rank(_evaluate)


def run_as_rank(work: Callable[[], int]) -> int:
    """Do the work of one rank, and leave the process group with the others. Ctrl-C ends it. Returns the exit code."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # heads are saved each epoch, so Ctrl-C may end the process
    heed_signals()
    return run_with_error_report(lambda: _to_the_end(work))


def _to_the_end(work: Callable[[], int]) -> int:
    code = work()
    from trainer.distributed.process_group import leave_together

    leave_together()
    return code


def _evaluate() -> int:
    with collector_paused():
        import_all()
    from launch.evaluate.evaluation import EvalJob, evaluate_backbone
    from trainer.distributed.process_group import initialize

    initialize()
    evaluate_backbone(EvalJob.model_validate_json(sys.argv[1]))
    return 0
