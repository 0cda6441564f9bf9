from pathlib import Path

import pytest

from launch import job_end
from launch.job import Start
from trainer.config import load_config
from trainer.run import RunFolder, read_records


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose job 7, started again once, is at its end; `scontrol` notes what it is asked."""
    run = RunFolder(tmp_path / "run")
    (run.path / "slurm").mkdir(parents=True)
    run.write_config(load_config("digits_demo"))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho JobState=RUNNING Restarts=1\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    return run


def end(run: RunFolder, code: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """End the job with a code. Returns whether it asked to be started again."""
    monkeypatch.setattr("sys.argv", ["job_end", str(run.path), str(code)])
    job_end.main()
    asked = run.path.parent / "asked"
    return asked.exists() and "requeue 7" in asked.read_text()


def test_a_killed_rank_is_named_and_the_job_starts_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    run.note("end", attempt=2, reason="lost a rank", message="Connection closed by peer")
    (run.path / "slurm" / "7_0_log.out").write_text(
        "srun: error: node1: task 0: Exited with exit code 3\nsrun: error: node2: task 1: Killed\n"
    )
    assert end(run, 137, monkeypatch)
    last = read_records(run.ledger)[-1]
    assert (last["attempt"], last["reason"], last["message"]) == (2, "killed", "node2, task 1: Killed")


def test_killed_twice_at_one_checkpoint_it_is_left_to_its_user(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note("start", attempt=1, world_size=2, job="7", restart=0)
    run.note("end", attempt=1, reason="killed", message="", saved=0)
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    assert not end(run, 137, monkeypatch)
    assert read_records(run.ledger)[-1]["reason"] == "killed"


def test_what_a_rank_said_before_it_failed_is_kept_and_nothing_starts_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    logs = Start("7", 1).logs(run.path)
    logs.mkdir(parents=True)
    (logs / "rank_1.log").write_text("error: /data: is gone\n")
    assert not end(run, 2, monkeypatch)
    last = read_records(run.ledger)[-1]
    assert (last["reason"], last["message"]) == ("error", "rank_1: error: /data: is gone")


@pytest.mark.parametrize(("reason", "code"), [("time is up", 255), ("error", 2), ("finished", 0)])
def test_an_end_that_is_noted_stays(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, reason: str, code: int
) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    run.note("end", attempt=2, reason=reason)
    assert not end(run, code, monkeypatch)
    assert read_records(run.ledger)[-1]["reason"] == reason
