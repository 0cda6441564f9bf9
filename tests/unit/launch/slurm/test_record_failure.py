from pathlib import Path

import pytest

from data_pipelines.log import LOGGER
from launch.slurm import record_failure
from launch.slurm.job_start import Start, start_line
from trainer.config.schema import load_config
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock


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
    monkeypatch.setattr("sys.argv", ["record_failure", str(run.path), str(code)])
    with pytest.raises(SystemExit) as ended:
        record_failure.main()
    assert ended.value.code == code
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


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd-node2: error: StepId=7.0 exceeded memory limit (642895872 > 314572800), being killed",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.",
        "srun: error: node2: task 1: Out Of Memory",
    ],
)
def test_where_memory_ran_out_the_message_says_what_to_ask_for(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    (run.path / "slurm" / "7_0_log.out").write_text(f"{line}\nsrun: error: node2: task 1: Killed\n")
    assert end(run, 137, monkeypatch)
    assert "--mem" in read_records(run.ledger)[-1]["message"]


def test_killed_twice_at_one_checkpoint_it_is_left_to_its_user(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note("start", attempt=1, world_size=2, job="7", restart=0)
    run.note("end", attempt=1, reason="killed", message="", saved=0)
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    assert not end(run, 137, monkeypatch)
    assert read_records(run.ledger)[-1]["reason"] == "killed"


def stall(run: RunFolder, attempt: int) -> None:
    """Rank 0's dump of an attempt of two that stalled."""
    run.logs.mkdir(exist_ok=True)
    facts = ("rank: 0", "host: node1", "step: 12", "doing: agreeing", "in: all_reduce", "seconds: 900")
    run.stall_dump(attempt, 0).write_text("\n".join([*facts, "---", "stacks", ""]))


def test_a_stall_is_told_from_the_dumps_and_the_job_starts_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall(run, 1)  # an earlier one
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    run.note("end", attempt=2, reason="lost a rank", message="Connection closed by peer")
    stall(run, 2)
    assert end(run, 4, monkeypatch)
    last = read_records(run.ledger)[-1]
    assert (last["attempt"], last["reason"]) == (2, "stalled")
    assert "rank 0 on node1: agreeing, in all_reduce; rank 1: gave no sign" in last["message"]


def test_ranks_that_hung_before_they_met_have_stalled_too(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall(run, 1)
    assert end(run, 4, monkeypatch)
    assert read_records(run.ledger)[-1]["reason"] == "stalled"


def test_stalled_after_it_was_killed_at_the_same_checkpoint_it_is_left_to_its_user(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note("start", attempt=1, world_size=2, job="7", restart=0)
    run.note("end", attempt=1, reason="killed", message="", saved=0)
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    stall(run, 2)
    assert not end(run, 4, monkeypatch)
    assert read_records(run.ledger)[-1]["reason"] == "stalled"


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


def test_an_earlier_start_s_output_is_not_this_one_s(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    (run.path / "slurm" / "7_0_log.out").write_text(
        f"{start_line(0)}\nsrun: error: node1: task 0: Out Of Memory\n"
        f"{start_line(1)}\nsrun: error: node2: task 1: Killed\n"
    )
    assert end(run, 137, monkeypatch)
    assert read_records(run.ledger)[-1]["message"] == "node2, task 1: Killed"


def scontrol_answers(run: RunFolder, requeue: str) -> None:
    (run.path.parent / "scontrol").write_text(
        f'#!/bin/sh\nif [ "$1" = requeue ]; then echo "$@" >>{run.path.parent}/asked; {requeue}; fi\n'
        "echo JobState=RUNNING Restarts=1\n"
    )


def test_a_controller_that_is_away_is_asked_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.slurm.requeue.RETRY_SECONDS", 0)
    away = run.path.parent / "away"
    away.touch()
    scontrol_answers(run, f"if [ -e {away} ]; then /bin/rm {away}; echo Socket timed out >&2; exit 1; fi")
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    assert end(run, 137, monkeypatch)
    assert (run.path.parent / "asked").read_text() == "requeue 7\nrequeue 7\n"


def test_a_requeue_that_is_refused_is_said_with_the_command_that_goes_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol_answers(run, "echo Requested operation is presently disabled >&2; exit 1")
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    end(run, 137, monkeypatch)
    said = capsys.readouterr().err
    assert "job 7 could not be requeued: Requested operation is presently disabled" in said
    assert f"all4one resume {run.path}" in said


def test_a_job_that_never_got_the_run_says_nothing_of_the_one_that_has_it(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    with RunLock(run.path, attempt=2):
        run.note("start", attempt=2, world_size=1, job="6", restart=0)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert not end(run, 2, monkeypatch)
    assert [record["event"] for record in read_records(run.ledger)] == ["start"]
    assert "trains the run" in caplog.text


def test_a_stall_that_was_noted_without_a_checkpoint_s_step_is_no_error(run: RunFolder) -> None:
    run.note("end", attempt=1, reason="stalled", message="")
    run.note("end", attempt=2, reason="killed", message="", saved=0)
    assert not record_failure.is_crash_loop(run)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_node_is_no_failure_that_comes_again(run: RunFolder, lost: int) -> None:
    for attempt in (1, 2):
        run.note("end", attempt=attempt, reason="killed", message="rank 1 on node2 was ended", saved=12)
    assert record_failure.is_crash_loop(run)
    message = "rank 0 on node1 was lost with its node"
    for attempt in range(3, 3 + lost):
        run.note("end", attempt=attempt, reason="killed", message=message, saved=12)
    assert not record_failure.is_crash_loop(run)


def test_a_run_that_has_finished_without_a_node_that_was_lost_is_a_success(run: RunFolder) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    run.note("end", attempt=2, reason="killed", message="rank 1 on node2 was lost with its node", saved=12)
    run.note("start", attempt=3, world_size=2, job="7", restart=1)
    run.note("end", attempt=3, reason="finished", step=40)
    assert record_failure.record_failure(run, 137) == 0
    assert len(read_records(run.ledger)) == 4


def test_the_message_of_an_agent_goes_before_what_srun_says(run: RunFolder) -> None:
    run.note("start", attempt=2, world_size=2, job="7", restart=1)
    run.note("end", attempt=2, reason="lost a rank", message="Connection closed by peer")
    assert record_failure.record_failure(run, 137, "rank 1 on node2 was lost with its node") == 137
    assert read_records(run.ledger)[-1]["message"] == "rank 1 on node2 was lost with its node"
    assert "requeue 7" in (run.path.parent / "asked").read_text()
