import signal
from pathlib import Path

import pytest
from checkpoints import snapshot

from launch.local.processes import Failure
from launch.local.recovery import MOST_RESTARTS, RunRecovery
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.runs.end_reasons import ExitCode
from trainer.runs.lock_holder import lock_file
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock
from trainer.runs.saved_progress import FELL_BACK, OF_COPIES, SURVIVED

KILLED = Failure(128 + signal.SIGKILL, "rank 1 was ended by SIGKILL (out of memory?)")
EXCEPTION = Failure(
    1, "rank 1 failed. The last lines of rank_1.log:\n  Traceback (most recent call last):\n  KeyError: 'a'"
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def begin(run: RunFolder) -> None:
    run.note("start", attempt=run.attempts() + 1, world_size=2)


def save(run: RunFolder, step: int) -> None:
    CheckpointStore(run.checkpoints, attempt=run.attempts()).write(snapshot(step))


def test_a_killed_rank_starts_again_until_three_restarts_saved_nothing(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        assert recovery.restarts(KILLED)
        assert "start again from step 5" in capsys.readouterr().err
        for _ in range(MOST_RESTARTS - 1):
            begin(run)
            assert recovery.restarts(KILLED)
        begin(run)
        assert not recovery.restarts(KILLED)
    ends = [r for r in read_ledger(run.ledger) if r["event"] == "end"]
    assert [(r["attempt"], r["reason"], r["saved"]) for r in ends] == [(n, "killed", 5) for n in range(1, 5)]
    assert ends[0]["message"] == KILLED.message


def test_an_exception_starts_again_only_after_a_new_step(run: RunFolder) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        run.note("end", attempt=1, reason="error", message="rank 0 knows why")
        assert recovery.restarts(EXCEPTION)
        begin(run)
        assert not recovery.restarts(EXCEPTION)
    ends = [(r["attempt"], r["message"]) for r in read_ledger(run.ledger) if r["event"] == "end"]
    assert ends == [
        (1, "rank 0 knows why"),
        (2, "rank 1 failed. The last lines of rank_1.log: KeyError: 'a'"),
    ]


def test_an_error_of_another_rank_than_the_first_is_recorded_and_final(run: RunFolder) -> None:
    message = (
        "rank 1 failed. The last lines of rank_1.log:\n  loading\n  error: 9 samples are bad\n  verify them"
    )
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        run.note("end", attempt=1, reason="lost a rank", message="Connection closed by peer")
        assert not recovery.restarts(Failure(ExitCode.USER_ERROR, message))
    end = read_ledger(run.ledger)[-1]
    assert (end["reason"], end["saved"]) == ("error", 5)
    assert end["message"] == "rank 1 failed. The last lines of rank_1.log: error: 9 samples are bad"


def test_nothing_is_recorded_in_the_attempt_of_a_process_that_has_taken_over(run: RunFolder) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        lock_file(run.path, lock.number + 1).write_text("{}")
        begin(run)
        assert not recovery.restarts(Failure(ExitCode.USER_ERROR, "rank 0 lost the run"))
        assert not recovery.restarts(KILLED)
    assert [r["event"] for r in read_ledger(run.ledger)] == ["start", "start"]


def test_a_code_that_nobody_knows_is_an_error_and_final(run: RunFolder) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        assert not recovery.restarts(Failure(7, "rank 1 failed. The last lines of rank_1.log:"))
    assert read_ledger(run.ledger)[-1]["reason"] == "error"


@pytest.mark.parametrize("code", [ExitCode.STALLED, ExitCode.TERMINATED])
def test_ends_that_others_record_are_final(run: RunFolder, code: int) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        begin(run)
        save(run, 5)
        assert not recovery.restarts(Failure(code, ""))
    assert [r["event"] for r in read_ledger(run.ledger)] == ["start"]


def test_ranks_that_never_met_leave_no_end_of_an_attempt(run: RunFolder) -> None:
    with RunLock(run.path) as lock:
        assert RunRecovery(run, lock).restarts(KILLED)
    assert not run.ledger.exists()


def test_ranks_that_start_again_take_over_the_usual_step(run: RunFolder) -> None:
    run.write_config(load_config("digits_demo", ["data.train=a", "data.validation=null"]))
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        first = recovery.watch({0: "node1", 1: "node2"})
        assert not first.usual_durations
        assert first._detection is not None
        first._detection.durations.extend([0.5, 0.7, 0.6])
        again = recovery.watch({0: "node1", 1: "node3"})
        assert [*again.usual_durations] == [0.5, 0.7, 0.6]
        fewer = recovery.watch({0: "node1"})  # its steps have another batch for each rank
        assert not fewer.usual_durations


def test_the_ledger_tells_if_the_ranks_go_on_from_the_last_checkpoint(run: RunFolder) -> None:
    with RunLock(run.path) as lock:
        recovery = RunRecovery(run, lock)
        for source in (None, OF_COPIES):
            begin(run)
            run.note("ready", attempt=run.attempts(), step=0, total_steps=40)
            save(run, 5 * run.attempts())
            if source:
                run.note(SURVIVED, attempt=run.attempts(), step=10, rank=0, source=source)
            assert recovery.restarts(KILLED)
        begin(run)  # it is lost before it has loaded anything
        assert recovery.restarts(KILLED)
    fell_back = [r for r in read_ledger(run.ledger) if r["event"] == FELL_BACK]
    assert [(r["attempt"], r["step"]) for r in fell_back] == [(1, 5)]
