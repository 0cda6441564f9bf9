"""How fast two nodes send to each other: an all-reduce between one process on each."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from data_pipelines.devices import choose_device
from data_pipelines.errors import UserError
from trainer.distributed.cluster_store import cluster_store

_FLOATS = {"cuda": 2**26, "cpu": 2**22}
"""Size of the all-reduce by device. It is large enough for the full bandwidth."""
_RANKS = 2


def pair_rate(meeting: str, first: str, rank: int, *, seconds: float = 2.0, patience: float = 10.0) -> float:
    """Return the bytes per second that the link between two nodes carries in an all-reduce. Both call it.

    On nodes with GPUs it goes by NCCL between the first GPU of each, and otherwise by gloo. The bus bandwidth of an
    all-reduce of n bytes between two processes is n divided by its time (NVIDIA nccl-tests, PERFORMANCE.md).

    Args:
        meeting: name that only these two processes share.
        first: name or address of the node of rank 0.
        rank: 0 or 1.
        seconds: time of the measurement.
        patience: how long to wait for the other node, seconds.

    Raises:
        UserError: the nodes cannot meet, or a sum is wrong.
        RuntimeError: the connection fails.
    """
    device = choose_device(0)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with cluster_store(meeting, first, is_first=rank == 0, patience_s=patience) as store:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(meeting, store),
            rank=rank,
            world_size=_RANKS,
            timeout=timedelta(seconds=patience),
        )
        try:
            return _rate(device, rank, seconds)
        finally:
            dist.destroy_process_group()


def _rate(device: torch.device, rank: int, seconds: float) -> float:
    values = torch.full((_FLOATS[device.type],), rank + 1.0, device=device)
    dist.all_reduce(values)
    if not bool((values == sum(range(1, _RANKS + 1))).all()):
        raise UserError("the sums of an all-reduce are wrong", fix="exclude both nodes")
    values.zero_()  # many sums of other numbers would overflow
    began = time.perf_counter()
    # Both must make the same number of calls, so a first one tells how many fit.
    dist.all_reduce(values)
    _settle(device)
    spent = torch.tensor(time.perf_counter() - began, device=device)
    dist.all_reduce(spent)
    calls = max(3, min(1000, int(seconds * _RANKS / max(float(spent), 1e-6))))
    began = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(values)
    _settle(device)
    return values.nbytes * calls / (time.perf_counter() - began)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
