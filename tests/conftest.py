"""Fixtures of all tests: the optional real data, and functions run as several ranks."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

DATA = Path(
    os.environ.get("ALL4ONE_TEST_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data")
)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images."""
    if not DATA.is_dir():
        pytest.skip(f"no test images in {DATA}: set ALL4ONE_TEST_DATA to their folder")
    return DATA


def _rank(
    index: int, function: Callable[..., Any], world_size: int, store: str, out: str, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=world_size)
    torch.save(function(*args), f"{out}.{index}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Call a module-level function in N real processes of one gloo group; its results by rank."""
    # imported once, not once a rank
    multiprocessing.set_forkserver_preload(["torch", "trainer.queue", "trainer.losses"])

    def run(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
        number = len(list(tmp_path.glob("ranks*")))
        folder = tmp_path / f"ranks{number}"
        folder.mkdir()
        out = str(folder / "out")
        mp.start_processes(
            _rank,
            (function, world_size, str(folder / "store"), out, args),
            nprocs=world_size,
            start_method="forkserver",
        )
        return [torch.load(f"{out}.{r}", weights_only=False) for r in range(world_size)]

    return run
