"""The process group of a run, and collectives for values that its ranks must agree on."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from data_pipelines.devices import choose_device, count_gpus
from trainer.distributed.deepspeed_internals import skip_shared_memory_collective
from trainer.distributed.message_recording import record_messages
from trainer.distributed.rendezvous import store_arguments


@dataclass(frozen=True)
class Process:
    """This process in the group of processes that train together."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and talks to the user."""
        return self.rank == 0


def import_deepspeed() -> None:
    """Import DeepSpeed for this machine's devices, without its warnings.

    Raises:
        UserError: this machine's CUDA driver cannot be used.
    """
    if not count_gpus():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with warnings.catch_warnings(), _absent("mlflow"):
        warnings.simplefilter("ignore")
        import deepspeed  # noqa: F401


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let imports of a module fail as if it was not installed, unless it is imported already.

    DeepSpeed's autotuner imports MLflow where it is installed. That takes a second and a half, and a library of MLflow
    starts a thread, after which this process could not fork its ranks.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def initialize() -> Process:
    """Join the process group that the environment names (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    Raises:
        UserError: the ranks cannot meet, or the node has GPUs, but fewer than processes or none that work.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    device = choose_device(local_rank)
    import_deepspeed()
    import deepspeed

    skip_shared_memory_collective()
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
    with store_arguments() as store:
        dist.init_process_group(backend, **store)
    record_messages()  # DeepSpeed looks up some functions only once, in the next line
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return Process(
        rank=dist.get_rank(),
        local_rank=local_rank,
        world_size=dist.get_world_size(),
        device=device,
    )


def leave_together() -> None:
    """Wait for all ranks, and leave the process group. Without a group, do nothing.

    A rank that left early would abort the others' last collective. One that ends inside the group may be aborted by the
    threads of its group, after its work is done.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class AsyncFlagReduce:
    """An asynchronous maximum of all ranks' flags. It runs on the CPU, so nothing waits for a device.

    Every rank creates one at the same place in the order of its collectives.
    """

    def __init__(self, flag: int) -> None:
        self._flag = torch.tensor(flag)
        self._work = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, async_op=True)

    def result(self) -> int:
        """Wait for the maximum and return it. It is the same on every rank."""
        assert self._work is not None
        self._work.wait()
        return int(self._flag)


def agree(flag: int) -> int:
    """Return the largest of all ranks' flags on every rank."""
    return AsyncFlagReduce(flag).result()
