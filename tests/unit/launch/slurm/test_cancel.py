"""`all4one cancel` with a SLURM whose answers are made up."""

from pathlib import Path

import pytest

from launch.slurm import cancel as command
from launch.slurm import slurm_commands
from launch.slurm.cancel import cancel
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that job 7 trains."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text("train: {global_batch: 64}\n")
    Submissions(run).note(["7"], 1, 1)
    run.note("start", attempt=1, world_size=1, job="7")
    run.note("end", attempt=1, reason="time is up", step=40)
    return run


def test_a_job_that_was_requeued_just_before_is_cancelled_while_it_waits(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, cancelled = ["RUNNING"], list[str]()

    def interrupt(_: str) -> None:
        state[0] = "PENDING"

    def scancel(number: str) -> None:
        cancelled.append(number)
        state[0] = "CANCELLED"

    monkeypatch.setattr(command, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(slurm_commands, "jobs", lambda _: {"7": slurm_commands.Job("7", state[0], "node1")})
    monkeypatch.setattr(slurm_commands, "interrupt", interrupt)
    monkeypatch.setattr(slurm_commands, "cancel", scancel)
    cancel(run.path, timeout=60)
    assert cancelled == ["7"]
    assert "job 7 saved step 40 and is cancelled" in capsys.readouterr().out
