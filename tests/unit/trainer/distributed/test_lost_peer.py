import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rank_processes import run_as_ranks

from trainer.distributed.lost_peer import Connections, is_lost_peer


def loses_a_peer() -> tuple[bool, float]:
    """Rank 0 waits for a message of rank 1, which leaves with a collective pending and goes on living."""
    x = torch.ones(4)
    dist.all_reduce(x)
    began = time.monotonic()
    found = False
    if dist.get_rank() == 0:
        try:
            dist.recv(x, src=1)
        except RuntimeError as error:
            found = is_lost_peer(error)
    elif dist.get_rank() == 1:
        work = dist.all_reduce(x, async_op=True)
        Connections.of_this_process().shut_down()
        time.sleep(5)
        found = not work.is_success() if work.is_completed() else True
    seconds = time.monotonic() - began
    dist.barrier = lambda *_, **__: None  # type: ignore[assignment]
    dist.destroy_process_group = lambda *_, **__: None  # type: ignore[assignment]
    return found, seconds


def test_a_rank_that_waits_for_one_that_leaves_learns_it_at_once(tmp_path: Path) -> None:
    (found, seconds), (pending, _), _ = run_as_ranks(loses_a_peer, 3, tmp_path, ())
    assert found
    assert pending
    assert seconds < 5


def test_only_connections_of_the_given_time_are_shut_down_and_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as early, listener.accept()[0] as its_end:
            peers = Connections.of_this_process()
            with socket.create_connection(listener.getsockname()) as late, listener.accept()[0] as other_end:
                peers.shut_down()
                assert its_end.recv(1) == b""
                late.sendall(b"x")
                assert other_end.recv(1) == b"x"
            assert early.recv(1) == b""
        with socket.create_connection(listener.getsockname()) as another, listener.accept()[0] as end:
            another.sendall(b"y")
            assert end.recv(1) == b"y"


def test_only_errors_of_connections_are_lost_peers() -> None:
    assert is_lost_peer(RuntimeError("[pair.cc:545] Read error: Connection reset by peer"))
    assert is_lost_peer(dist.DistBackendError("a network error or a remote process exiting prematurely."))
    assert not is_lost_peer(RuntimeError("CUDA out of memory"))
    assert not is_lost_peer(ConnectionResetError("Connection reset by peer"))
