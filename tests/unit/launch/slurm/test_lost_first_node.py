import os
import threading
import time
from pathlib import Path

import pytest

from launch.slurm import lost_first_node
from launch.slurm.lost_first_node import ask_for_restart
from launch.slurm.node_agent import Place
from trainer.config.schema import load_config
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

SCONTROL = """#!/bin/sh
echo "$@" >>{asked}
case "$*" in
    *"show node"*) echo "NodeName=node1 State={node} CPUs=4" ;;
    *"requeue 7"*) touch {asked}.requeued ;;
    *"show job"*)
        state={job}
        if [ -e {asked}.requeued ]; then state=PENDING; fi
        echo "JobId=7 JobState=$state Restarts={restarts}" ;;
esac
"""
PLACE = Place(1, 1, ("node1", "node2"), "7.1")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_config(load_config("digits_demo"))
    run.note("start", attempt=1, world_size=2, job="7", restart=1)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(lost_first_node, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(lost_first_node, "PATIENCE_S", 3.0)
    return run


def controller(run: RunFolder, *, node: str = "MIXED", job: str = "RUNNING", restarts: int = 1) -> None:
    """A controller that says so, and notes what it is asked."""
    scontrol = run.path.parent / "scontrol"
    asked = run.path.parent / "asked"
    scontrol.write_text(SCONTROL.format(asked=asked, node=node, job=job, restarts=restarts))
    scontrol.chmod(0o755)
    scancel = run.path.parent / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >>{cancelled_file(run)}\n')
    scancel.chmod(0o755)


def cancelled_file(run: RunFolder) -> Path:
    return run.path.parent / "cancelled"


def has_requeued(run: RunFolder) -> bool:
    asked = run.path.parent / "asked"
    return asked.exists() and "requeue 7" in asked.read_text()


def test_a_first_node_that_is_down_restarts_the_job(run: RunFolder) -> None:
    controller(run, node="DOWN*")
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000):  # its holder is on the lost node
        ask_for_restart(run, PLACE)
    assert has_requeued(run)
    end = read_records(run.ledger)[-1]
    assert (end["reason"], end["message"]) == ("killed", "rank 0 on node1 was lost with its node")
    assert not cancelled_file(run).exists()


def test_a_job_that_may_not_start_again_is_ended(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run.write_config(load_config("digits_demo", ["slurm.max_requeues=1"]))
    controller(run, node="DOWN*")
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000):
        ask_for_restart(run, PLACE)
    assert not has_requeued(run)
    assert cancelled_file(run).read_text().split() == ["7"]
    assert f"job 7 ends. Go on with: all4one resume {run.path}" in caplog.text


def test_a_lock_without_a_sign_of_life_restarts_the_job(run: RunFolder) -> None:
    controller(run)
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000) as lock:
        (file,) = (run.path / "lock").glob("*.json")
        os.utime(file, (time.time() - 100, time.time() - 100))
        ask_for_restart(run, PLACE)
        assert not lock.lost
    assert has_requeued(run)


def test_a_run_that_has_ended_without_this_node_is_left_alone(run: RunFolder) -> None:
    controller(run, node="DOWN*")
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000):
        pass
    ask_for_restart(run, PLACE)
    assert not has_requeued(run)


def test_an_agent_that_was_cut_off_itself_asks_for_nothing(run: RunFolder) -> None:
    controller(run, node="DOWN*")
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000):
        (file,) = (run.path / "lock").glob("*.json")
        beat = threading.Timer(0.02, lambda: os.utime(file, (time.time() + 1, time.time() + 1)))
        beat.start()
        ask_for_restart(run, PLACE)
        beat.join()
    assert not has_requeued(run)


@pytest.mark.parametrize(("job", "restarts"), [("PENDING", 1), ("COMPLETING", 1), ("RUNNING", 2)])
def test_a_start_that_is_over_is_not_restarted(run: RunFolder, job: str, restarts: int) -> None:
    controller(run, node="DOWN*", job=job, restarts=restarts)
    ask_for_restart(run, PLACE)
    assert not has_requeued(run)


def test_a_node_that_only_answers_late_is_not_given_up(run: RunFolder) -> None:
    controller(run)
    with RunLock(run.path, heartbeat_s=1000, stale_after_s=3000):
        ask_for_restart(run, PLACE)
    assert not has_requeued(run)
