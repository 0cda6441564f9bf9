import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_processes import forks

from trainer.distributed.lost_peer import is_lost_peer
from trainer.distributed.neighbor_exchange import NeighborExchange

BYTES = 30_000_000
RANKS = 3


def at_different_speeds(_: int) -> bool:
    exchange = NeighborExchange(1)
    own, received = (torch.full((BYTES,), value, dtype=torch.uint8) for value in (7, 0))
    if dist.get_rank() == 2:
        time.sleep(1)
    exchange.begin(own, received).wait()
    dist.barrier()
    return bool((received == 7).all())


def exchanged(distance: int) -> list[tuple[int, list[int]]]:
    exchange = NeighborExchange(distance)
    found = []
    for turn in range(2):
        own = torch.full((1000,), dist.get_rank() + 10 * turn, dtype=torch.uint8)
        received = torch.zeros(1000, dtype=torch.uint8)
        pending = exchange.begin(own, received)
        dist.all_reduce(torch.zeros(1))  # has a group of its own
        pending.wait()
        assert pending.has_come(0)
        found.append((exchange.ward, received.unique().tolist()))
        dist.barrier()  # The next exchange may begin only after all ranks have waited for this one.
    return found


@pytest.mark.parametrize("distance", [1, 2])
def test_each_rank_receives_what_its_ward_has_sent(run_ranks: Any, distance: int) -> None:
    for rank, found in enumerate(run_ranks(exchanged, RANKS, distance)):
        ward = (rank - distance) % RANKS
        assert found == [(ward, [ward]), (ward, [ward + 10])]


def test_a_rank_that_has_received_its_part_goes_on_sending(run_ranks: Any) -> None:
    assert run_ranks(at_different_speeds, RANKS, 0) == [True] * RANKS


def lose_rank_1(rank: int, folder: Path, seconds: float) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    exchange = NeighborExchange(1)
    dist.barrier()
    received = torch.zeros(BYTES, dtype=torch.uint8)
    own = torch.full((BYTES,), rank + 1, dtype=torch.uint8)
    if rank == 1:
        exchange.begin(own, received)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        exchange.begin(own, received).wait()  # either one may be the first to learn of it
        outcome = "whole" if bool((received == exchange.ward + 1).all()) else "torn"
    except RuntimeError as error:
        outcome = "lost" if is_lost_peer(error) else repr(error)
    (folder / str(rank)).write_text(outcome)
    os._exit(0)  # gloo may wait for ever


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03])
def test_ranks_learn_of_one_that_ends_in_the_middle_and_what_has_come_is_whole(
    tmp_path: Path, seconds: float
) -> None:
    ranks = [forks().Process(target=lose_rank_1, args=(rank, tmp_path, seconds)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, -signal.SIGKILL, 0]
    assert {(tmp_path / str(rank)).read_text() for rank in (0, 2)} <= {"whole", "lost"}
