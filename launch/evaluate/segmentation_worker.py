"""What each rank of a linear segmentation does. The environment describes its process group."""

import sys

from launch.evaluate.worker import run_as_rank
from launch.local.imports import collector_paused


def import_all() -> None:
    """Import what a rank needs, so that forks of this process need not."""
    import launch.evaluate.segmentation  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed

    import_deepspeed()


def main() -> int:
    """Evaluate as one rank. `sys.argv[1]` is a `SegmentationJob` as JSON. Returns the exit code."""
    return run_as_rank(_segment)


def _segment() -> int:
    with collector_paused():
        import_all()
    from launch.evaluate.segmentation import SegmentationJob, segment_backbones
    from trainer.distributed.process_group import initialize

    initialize()
    segment_backbones(SegmentationJob.model_validate_json(sys.argv[1]))
    return 0
