import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest

from launch.local.wakeups import Wakeups

LONG = 60.0
"""Far more than these tests take. A test that waits for it has missed what it waits for."""


@pytest.fixture
def wakeups() -> Iterator[Wakeups]:
    with closing(Wakeups()) as wakeups:
        yield wakeups


@pytest.fixture
def child() -> Iterator[int]:
    process = os.fork()
    if not process:
        time.sleep(LONG)
        os._exit(0)
    yield process
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def waited(wakeups: Wakeups, *arguments: object) -> float:
    """How long a wait took, seconds."""
    began = time.monotonic()
    wakeups.wait(*arguments)  # type: ignore[arg-type]
    return time.monotonic() - began


def test_the_end_of_a_process_wakes(wakeups: Wakeups, child: int) -> None:
    Timer(0.2, os.kill, (child, signal.SIGKILL)).start()
    assert waited(wakeups, [child], [], LONG) < LONG / 2
    assert waited(wakeups, [child], [], LONG) < LONG / 2  # nobody has noted it yet


def test_data_and_the_end_of_a_connection_wake(wakeups: Wakeups, child: int) -> None:
    own, theirs = socket.socketpair()
    with own:
        Timer(0.2, theirs.send, (b"1",)).start()
        assert waited(wakeups, [child], [own], LONG) < LONG / 2
        own.recv(10)
        Timer(0.2, theirs.close).start()
        assert waited(wakeups, [child], [own], LONG) < LONG / 2


def test_nothing_wakes_before_the_time_is_up(wakeups: Wakeups, child: int) -> None:
    own, theirs = socket.socketpair()
    with own, theirs:
        assert waited(wakeups, [child], [own], 0.3) >= 0.3


def test_where_the_kernel_tells_no_ends_a_wait_is_short(
    wakeups: Wakeups, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(process: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    assert waited(wakeups, [child], [], LONG) < LONG / 2


def test_the_files_of_ended_starts_are_released(child: int) -> None:
    def files() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    before = files()
    wakeups = Wakeups()
    wakeups.wait([child], [], 0.0)
    assert files() == before + 1
    wakeups.close()
    assert files() == before
