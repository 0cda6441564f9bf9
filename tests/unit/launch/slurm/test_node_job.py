from pathlib import Path

import pytest

from launch.slurm.node_job import _reason
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.note("start", attempt=1, world_size=2)
    return run


def test_the_recorded_reason_counts_whatever_is_noted_after_it(run: RunFolder) -> None:
    run.note("end", attempt=1, reason=EndReason.PREEMPTED)
    run.note("rank_times", attempt=1, step=100, times=[])
    assert _reason(run, ExitCode.TIME_IS_UP) == EndReason.PREEMPTED


def test_without_an_end_of_the_newest_attempt_the_code_tells_the_reason(run: RunFolder) -> None:
    run.note("end", attempt=1, reason=EndReason.PREEMPTED)
    run.note("start", attempt=2, world_size=2)
    assert _reason(run, ExitCode.TIME_IS_UP) == EndReason.TIME_IS_UP
    assert _reason(run, 1) == EndReason.ERROR
