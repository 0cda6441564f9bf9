import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from torch.distributed import TCPStore

from data_pipelines.errors import UserError
from trainer.distributed import cluster_store
from trainer.distributed.cluster_store import HIGHEST_PORT, LOWEST_PORT, TRIED, ports


def meet(meeting: str, ranks: int, *, late_s: float = 0, node: str = "127.0.0.1") -> list[object]:
    """What each rank reads in the store that rank 0 has opened; rank 0 comes late."""
    found: list[object] = [None] * ranks
    together = threading.Barrier(ranks)

    def join(rank: int) -> None:
        if rank == 0:
            time.sleep(late_s)
        with cluster_store.cluster_store(meeting, node, is_first=rank == 0, patience_s=60) as store:
            store.set(f"rank{rank}", str(rank))
            found[rank] = [store.get(f"rank{r}").decode() for r in range(ranks)]
            together.wait(60)  # the server's store lives as long as its object

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@contextmanager
def silent(port: int) -> Iterator[None]:
    """A server that takes connections and never answers."""
    with socket.create_server(("", port), backlog=100):
        yield


@contextmanager
def store(port: int) -> Iterator[None]:
    """A store of another program."""
    other = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    yield
    del other


@contextmanager
def another_meeting(port: int) -> Iterator[None]:
    """Rank 0 of another job."""
    with socket.create_server(("", port)) as listener:
        line = cluster_store._line("another.0", port)
        threading.Thread(target=cluster_store._tell, args=(listener, line), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def test_ports_are_below_the_ephemeral_range_and_differ_between_starts() -> None:
    seen = {ports(f"{job}.{restart}") for job in range(50) for restart in range(4)}
    assert len({found[0] for found in seen}) > 190
    assert all(
        found[0] >= LOWEST_PORT and found[-1] <= HIGHEST_PORT and len(found) == TRIED for found in seen
    )
    assert ports("7.0") == ports("7.0")


def test_ranks_meet_though_rank_0_comes_late() -> None:
    assert meet("late.0", 3, late_s=0.5) == [["0", "1", "2"]] * 3


def has_address(address: str) -> bool:
    try:
        with socket.create_server((address, 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("node", ["127.0.0.1", "::1"])
def test_ranks_meet_by_ipv4_and_by_ipv6(node: str) -> None:
    if ":" in node and not has_address(node):
        pytest.skip("this machine has no IPv6")
    assert meet(f"{node}.0", 2, node=node) == [["0", "1"]] * 2


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_ranks_meet_by_ipv4_if_the_kernel_has_no_ipv6(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], **options: object) -> socket.socket:
        if options.get("family") == socket.AF_INET6:
            raise OSError(code, "no IPv6")
        return create(address, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    assert meet(f"without_{code}.0", 2) == [["0", "1"]] * 2


@pytest.mark.parametrize("other", [silent, store, another_meeting])
def test_a_taken_port_is_passed_over(other: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_store, "ANSWER_S", 0.5)
    meeting = f"taken_{other.__name__}.0"
    with other(ports(meeting)[0]), other(ports(meeting)[1]):
        assert meet(meeting, 2, late_s=0.2) == [["0", "1"]] * 2


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def join(meeting: str, node: str, *, is_first: bool) -> None:
        with cluster_store.cluster_store(meeting, node, is_first=is_first, patience_s=0.3):
            pytest.fail("there is no store")

    with pytest.raises(UserError, match=r"first node, no-such-node\.invalid, does not resolve"):
        join("a.0", "no-such-node.invalid", is_first=False)
    with pytest.raises(UserError, match="did not come to the meeting on ports"):
        join("nobody.0", "127.0.0.1", is_first=False)
    monkeypatch.setattr(cluster_store, "TRIED", 2)
    with silent(ports("full.0")[1]), pytest.raises(UserError, match="are free"):
        join("full.0", "127.0.0.1", is_first=True)


def test_a_name_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.EAI_AGAIN, socket.EAI_AGAIN, None, socket.EAI_AGAIN, socket.EAI_NONAME])

    def look_up(node: str, service: None) -> list[object]:
        answer = next(answers)
        if answer is not None:
            raise socket.gaierror(answer, "no answer")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(cluster_store.time, "sleep", lambda seconds: None)
    cluster_store._require_name("node1", time.monotonic() + 60)
    with pytest.raises(UserError, match="does not resolve"):
        cluster_store._require_name("node1", time.monotonic() + 60)
    assert next(answers, None) is None
