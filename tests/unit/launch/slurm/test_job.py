"""How a job ends after the signals that it got."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.errors import UserError
from launch.local.worker import End
from launch.slurm import job, rank_of_job, slurm_commands
from launch.slurm.job import TrainJob
from launch.slurm.job_start import Start
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.run_folder import RunFolder

STOPS = (ExitCode.INTERRUPTED, ExitCode.TIME_IS_UP, ExitCode.TERMINATED)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    Submissions(RunFolder(tmp_path)).folder.mkdir()
    return RunFolder(tmp_path)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the first rank of job 7 does after it has saved. SLURM says that the job runs."""
    found: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(slurm_commands, "facts", lambda *_, **__: {"JobState": "RUNNING", "Restarts": "0"})
    monkeypatch.setattr(slurm_commands, "cancel", lambda number: found.append(f"cancel {number}"))
    monkeypatch.setattr(job, "begin_task", lambda _: 0)
    monkeypatch.setattr(job, "_wait_to_be_ended", lambda: found.append("wait"))
    monkeypatch.setattr(job, "requeue_from_rank", lambda requeue: requeue())
    before = signal.signal(signal.SIGUSR2, lambda *_: found.append("requeue"))
    yield found
    signal.signal(signal.SIGUSR2, before)


def end_with(code: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> str:
    """End an attempt with a code. Returns the reason."""
    reasons: list[str] = []

    def trained(*_: Any, reason: Any, **__: Any) -> End:
        reasons.append(reason(code))
        return End(code, reasons[0])

    monkeypatch.setattr(rank_of_job, "train_run", trained)
    with suppress(SystemExit):
        TrainJob(run.path, 100)()
    return reasons[0]


@pytest.mark.parametrize("code", STOPS)
def test_a_job_that_its_user_cancels_never_restarts_whichever_signal_came_too(
    run: RunFolder, done: list[str], monkeypatch: pytest.MonkeyPatch, code: ExitCode
) -> None:
    Submissions(run).request_cancel("7")
    assert end_with(code, run, monkeypatch) == EndReason.CANCELLED
    assert done == (["cancel 7"] if code == ExitCode.TERMINATED else ["cancel 7", "wait"])


def test_a_time_limit_alone_asks_for_a_requeue(
    run: RunFolder, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Submissions(run).request_cancel("6")
    assert end_with(ExitCode.TIME_IS_UP, run, monkeypatch) == EndReason.TIME_IS_UP
    assert done == ["requeue", "wait"]


def test_a_run_that_finished_before_it_saw_the_cancellation_is_finished(
    run: RunFolder, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Submissions(run).request_cancel("7")
    assert end_with(ExitCode.FINISHED, run, monkeypatch) == EndReason.FINISHED
    assert done == []


def test_after_scancel_the_nodes_are_released_at_once(
    run: RunFolder, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "facts", lambda *_, **__: {"JobState": "CANCELLED", "Restarts": "0"})
    assert end_with(ExitCode.TERMINATED, run, monkeypatch) == EndReason.CANCELLED
    assert done == []


def test_a_controller_that_is_down_ends_in_no_traceback(
    run: RunFolder, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_: str) -> None:
        raise UserError("SLURM's controller does not answer")

    monkeypatch.setattr(slurm_commands, "cancel", down)
    Submissions(run).request_cancel("7")
    assert end_with(ExitCode.INTERRUPTED, run, monkeypatch) == EndReason.CANCELLED
    assert done == ["wait"]


def test_an_element_of_an_array_has_a_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SLURM_JOB_ID", "9")
    monkeypatch.setitem(os.environ, "SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setitem(os.environ, "SLURM_ARRAY_TASK_ID", "2")
    assert Start.this().job == "7_2"
