import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.runs.supervisor import SOCKET, HeldCopy, Holdings, Supervisor, Task, send


def pair() -> tuple[socket.socket, socket.socket, Supervisor, threading.Event]:
    """The supervisor's end, the rank's end, the rank's view, and whether the rank has ended its waits."""
    own, theirs = socket.socketpair()
    interrupted = threading.Event()
    return own, theirs, Supervisor(theirs, interrupted.set), interrupted


@pytest.mark.parametrize("saves", [True, False])
def test_a_rank_reports_its_step_and_hears_whether_it_saves(saves: bool) -> None:
    own, _, supervisor, interrupted = pair()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(supervisor.report, Holdings(12))
        assert json.loads(own.makefile("r").readline()) == {"lost_peer": True, "step": 12}
        send(own, {"save": saves})
        assert answer.result(timeout=30) == Task(saves=saves)
    assert not interrupted.is_set()


@pytest.mark.parametrize(
    "held", [Holdings(3), Holdings(None, (HeldCopy(5, (1, 2), False), HeldCopy(4, (1,), True)))]
)
def test_holdings_survive_a_message(held: Holdings) -> None:
    assert Holdings.from_json(json.loads(json.dumps(held.as_json()))) == held


@pytest.mark.parametrize(
    "task", [Task(), Task(saves=True), Task(saves=True, copy=0), Task(copy=7, shards=(2, 3))]
)
def test_a_task_survives_a_message(task: Task) -> None:
    assert Task.from_json(json.loads(json.dumps(task.as_json()))) == task


def test_a_loss_that_the_rank_did_not_notice_ends_its_waits_before_it_reports() -> None:
    own, _, supervisor, interrupted = pair()
    send(own, {"lost_peer": True})
    assert interrupted.wait(30)
    send(own, {"save": True})
    assert supervisor.report(Holdings()).saves


def test_only_the_first_thread_reports() -> None:
    own, _, supervisor, _ = pair()
    send(own, {"save": False})
    assert supervisor.report_first(Holdings()) == Task()
    assert supervisor.report_first(Holdings()) is None


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_reset", [False, True])
def test_without_a_supervisor_any_more_nobody_saves(is_reset: bool) -> None:
    own, theirs, supervisor, _ = pair()
    if is_reset:
        send(theirs, {"unread": True})
    own.close()
    assert supervisor.report(Holdings(3)) == Task()


def test_the_environment_names_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET, raising=False)
    assert Supervisor.of_this_process(lambda: None) is None
    own, theirs = socket.socketpair()
    monkeypatch.setenv(SOCKET, str(os.dup(theirs.fileno())))
    supervisor = Supervisor.of_this_process(lambda: None)
    assert supervisor is not None
    send(own, {"save": True})
    assert supervisor.report(Holdings(1)).saves
