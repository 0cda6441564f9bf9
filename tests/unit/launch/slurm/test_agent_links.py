import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.errors import UserError
from launch.slurm import agent_links
from launch.slurm.agent_links import AgentLost, FirstAgent, LaterAgent
from trainer.distributed.cluster_store import ports


def heard(end: Any, count: int) -> list[Any]:
    """The next messages that arrive at one end."""
    found: list[Any] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        found += end.read()
        assert time.monotonic() < deadline
    return found


@pytest.fixture
def meeting(tmp_path: Path) -> str:
    return str(tmp_path)


def test_agents_meet_whichever_comes_first_and_hear_each_other(meeting: str) -> None:
    with ThreadPoolExecutor() as threads:
        later = [threads.submit(LaterAgent, meeting, "127.0.0.1", node) for node in (2, 1)]
        first = FirstAgent(meeting, 3)
        two, one = (future.result(timeout=30) for future in later)
    first.send_all({"do": "start"})
    first.send_all({"do": "answer"})
    assert heard(one, 2) == heard(two, 2) == [{"do": "start"}, {"do": "answer"}]
    one.send({"rank": 1, "code": -9})
    two.send({"rank": 2, "holds": None})
    assert sorted(heard(first, 2), key=lambda m: m["rank"]) == [
        {"rank": 1, "code": -9},
        {"rank": 2, "holds": None},
    ]


def test_a_lost_agent_is_noticed_at_both_ends(meeting: str) -> None:
    with ThreadPoolExecutor() as threads:
        later = threads.submit(LaterAgent, meeting, "127.0.0.1", 1)
        first = FirstAgent(meeting, 2)
        one = later.result(timeout=30)
    one._line.connection.close()
    assert heard(first, 1) == [{"lost": 1}]
    assert first.read() == []
    assert first.names == {1: socket.gethostname()}
    assert "closed" in first.lost[1]
    first.send_all({"do": "start"})
    with ThreadPoolExecutor() as threads:
        later = threads.submit(LaterAgent, f"{meeting}2", "127.0.0.1", 1)
        first = FirstAgent(f"{meeting}2", 2)
        one = later.result(timeout=30)
    first._lines[1].connection.close()
    with pytest.raises(AgentLost):
        heard(one, 1)


def test_an_agent_that_reads_nothing_for_a_while_is_not_lost(
    meeting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel acknowledges. The SLURM tests lose nodes that do not."""
    monkeypatch.setattr(agent_links, "BEAT_S", 0.05)
    monkeypatch.setattr(agent_links, "LOST_AFTER_S", 0.3)
    monkeypatch.setattr(agent_links, "FIRST_LOST_AFTER_S", 0.3)
    with ThreadPoolExecutor() as threads:
        later = threads.submit(LaterAgent, meeting, "127.0.0.1", 1)
        first = FirstAgent(meeting, 2)
        one = later.result(timeout=30)
    for reader in (first, one):
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert reader.read() == []
            time.sleep(0.01)
    first.send_all({"do": "start"})
    one.send({"rank": 1})
    assert heard(one, 1) == [{"do": "start"}]
    assert heard(first, 1) == [{"rank": 1}]


@pytest.mark.parametrize(
    ("error", "why", "is_silent"),
    [
        (TimeoutError(110, "Connection timed out"), "it acknowledged nothing for 5 s", True),
        (OSError(113, "No route to host"), "No route to host", True),
        (ConnectionResetError(104, "Connection reset by peer"), "the connection was closed", False),
    ],
)
def test_an_end_of_the_agent_is_told_from_the_loss_of_its_node(
    error: OSError, why: str, is_silent: bool
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        socket.create_connection(own.getsockname()) as connection,
    ):
        lost = agent_links._Line(connection, 5.0)._loss(error)
    assert (str(lost), lost.is_silent) == (why, is_silent)


def test_a_fork_of_an_agent_does_not_hold_its_connection(meeting: str) -> None:
    with ThreadPoolExecutor() as threads:
        later = threads.submit(LaterAgent, meeting, "127.0.0.1", 1)
        first = FirstAgent(meeting, 2)
        one = later.result(timeout=30)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    one._line.connection.close()
    assert heard(first, 1) == [{"lost": 1}]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def hung_up_on(port: int, text: bytes) -> bool:
    """Say the text at a port as soon as somebody listens there. Returns whether the listener closes the connection."""
    for _ in range(3000):
        with (
            suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port), timeout=30) as stranger,
        ):
            stranger.sendall(text)
            return stranger.recv(10) == b""
        time.sleep(0.01)
    raise TimeoutError(f"nobody listened at port {port}")


def test_strangers_at_the_port_are_hung_up_on_and_foreign_servers_are_passed_by(meeting: str) -> None:
    foreign_port, port = ports(meeting)[:2]
    texts = b"GET / HTTP/1.0\r\n", json.dumps({"meeting": "another", "node": 1}).encode() + b"\n"
    with socket.create_server(("127.0.0.1", foreign_port)) as foreign, ThreadPoolExecutor() as threads:
        first = threads.submit(FirstAgent, meeting, 2)
        assert all(hung_up_on(port, text) for text in texts)
        foreign.settimeout(30)
        later = threads.submit(LaterAgent, meeting, "127.0.0.1", 1)
        connection, _ = foreign.accept()
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n")
        connection.close()
        met = first.result(timeout=30)
        # Agents may come late, so the first one still listens when it has met the others.
        stranger = threads.submit(hung_up_on, port, texts[1])
        while not stranger.done():
            assert met.read() == []
        assert stranger.result()
        met.send_all({"do": "end"})
        assert heard(later.result(timeout=30), 1) == [{"do": "end"}]


def test_an_agent_that_does_not_come_is_lost_until_it_comes_late(
    meeting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_links, "ARRIVE_S", 0.5)
    with ThreadPoolExecutor() as threads:
        one = threads.submit(LaterAgent, meeting, "127.0.0.1", 1)
        first = FirstAgent(meeting, 3)
        one.result(timeout=30)
        assert first.lost == {2: "its agent did not come within 0.5 s"}
        assert first.take_late() == []
        two = threads.submit(LaterAgent, meeting, "127.0.0.1", 2)
        while not two.done():
            assert first.read() == []
    assert first.lost.keys() == {2}
    assert first.take_late() == [2]
    assert first.lost == {}
    first.send_all({"do": "end"})
    assert heard(two.result(), 1) == [{"do": "end"}]


def test_a_first_agent_that_does_not_answer_is_named(meeting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_links, "JOIN_S", 0.2)
    with pytest.raises(UserError, match="did not answer"):
        LaterAgent(meeting, "127.0.0.1", 1)
