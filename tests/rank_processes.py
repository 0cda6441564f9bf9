"""Functions run as the ranks of a real process group. A module of its own: forked ranks import it by name."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = [
    "torch",
    "timm",
    "pytest",
    "hypothesis",
    "trainer.checkpoints.store",
    "trainer.contrast.queue",
    "trainer.contrast.losses",
    "warm_imports",
]
"""Imported once, not once a process; the first test that forks decides for all, so that all name these."""


def run_as_ranks(
    function: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]
) -> list[Any]:
    """Call a module-level function in `world_size` processes of one gloo group; its results by rank."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(
        _rank, (function, world_size, folder, args), nprocs=world_size, start_method="forkserver"
    )
    return [torch.load(folder / f"out.{r}", weights_only=False) for r in range(world_size)]


def _rank(
    index: int, function: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=world_size)
    torch.save(function(*args), folder / f"out.{index}")
    dist.barrier()
    dist.destroy_process_group()
