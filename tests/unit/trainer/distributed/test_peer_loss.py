import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rank_processes import run_as_ranks

from trainer.distributed.loss_flag import LossFlag
from trainer.distributed.lost_peer import Connections, LostPeer, is_lost_peer
from trainer.distributed.peer_loss import PeerLoss


def declared_while_it_waits() -> tuple[bool, bool, float]:
    """Rank 0 waits for a message that rank 1 never sends, until a thread declares the loss."""
    flag = LossFlag(torch.device("cpu"))
    loss = PeerLoss(flag, Connections.of_this_process())
    lost = False
    if dist.get_rank() == 0:
        threading.Timer(0.5, loss.declare).start()
        try:
            dist.all_reduce(torch.ones(4))
        except RuntimeError as error:
            lost = is_lost_peer(error)
        loss.declare()  # does nothing more
    else:
        time.sleep(2)
    dist.barrier = lambda *_, **__: None  # type: ignore[assignment]
    dist.destroy_process_group = lambda *_, **__: None  # type: ignore[assignment]
    return lost, flag.is_set, float(flag.read())


def test_a_wait_ends_when_a_thread_declares_the_loss(tmp_path: Path) -> None:
    first, second = run_as_ranks(declared_while_it_waits, 2, tmp_path, ())
    assert first == (True, True, 1.0)
    assert second == (False, False, 0.0)


def test_a_set_flag_refuses_further_use_of_results() -> None:
    flag = LossFlag(torch.device("cpu"))
    flag.refuse()
    before = flag.read()
    flag.set()
    assert before == 0  # what was read stays
    assert flag.read() == 1
    with pytest.raises(LostPeer, match="another rank is lost"):
        flag.refuse()
