"""Functions run as the ranks of a real process group. A module of its own: forked ranks import it by name."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def forks() -> ForkServerContext:
    """Processes that are forks of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_imports"])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 does not hand its search path to the process that imports and forks.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    return context


def run_as_ranks(
    function: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]
) -> list[Any]:
    """Call a module-level function in `world_size` processes of one gloo group; its results by rank."""
    forks()
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


def interpret_triton() -> None:
    """Make this process of a rank run Triton's kernels on CPU tensors. Triton decides it when it is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    for name in list(sys.modules):
        # compiled code loads once
        if name.partition(".")[0] == "triton" and not name.startswith("triton._C"):
            del sys.modules[name]
