"""The ranks of an evaluation end together."""

import time
from pathlib import Path

import pytest
import torch.distributed as dist

from launch.evaluate.worker import run_as_rank


def end(store: Path) -> tuple[int, bool, float]:
    """The exit code of a rank, whether it is still in the process group, and the seconds since its work was done."""
    done, rank = 0.0, dist.get_rank()

    def work() -> int:
        nonlocal done
        time.sleep(rank)
        done = time.monotonic()
        return 0

    found = run_as_rank(work), dist.is_initialized(), time.monotonic() - done
    if not found[1]:  # the helper of the test ends in a group
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    return found


@pytest.mark.slow
def test_each_rank_waits_for_the_others_and_leaves_the_process_group(run_ranks, tmp_path) -> None:
    (first, first_is_inside, waited), (second, second_is_inside, _) = run_ranks(end, 2, tmp_path / "store")
    assert (first, second) == (0, 0)
    assert not first_is_inside
    assert not second_is_inside
    assert waited > 0.5  # its work was done a second before that of the other
