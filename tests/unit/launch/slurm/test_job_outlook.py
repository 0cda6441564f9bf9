from pathlib import Path

import pytest

from launch.node_check.record import NODE_CHECK
from launch.slurm.job_outlook import _check_plan, _reason
from trainer.config.schema import load_config
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder, create_run


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


@pytest.mark.parametrize(
    ("overrides", "nodes", "is_checked", "data"),
    [
        ([], 1, False, True),
        ([], 2, True, True),
        (["slurm.check_nodes=true"], 1, True, True),
        (["slurm.check_nodes=false"], 2, False, True),
        (["data.train=https://host/set"], 2, True, False),
    ],
)
def test_jobs_of_several_nodes_are_checked_unless_the_settings_say_otherwise(
    tmp_path: Path, overrides: list[str], nodes: int, is_checked: bool, data: bool
) -> None:
    settings = [f"run.folder={tmp_path}", "run.name=one", f"data.train={tmp_path}/set", *overrides]
    run = create_run(load_config("digits_demo", settings), "one")
    plan = _check_plan(run, run.read_config(), nodes)
    assert (plan is not None) == is_checked
    if plan is not None:
        assert (plan.data, plan.tolerance) == (tmp_path / "set" if data else None, 0.2)
        plan.note({"seconds": 1.0})
        (record,) = read_records(run.ledger)
        assert (record["event"], record["attempt"], record["seconds"]) == (NODE_CHECK, 1, 1.0)


def test_the_first_set_on_a_disk_stands_for_a_mix(tmp_path: Path) -> None:
    train = f"data.train=[https://host/set, {tmp_path}/a, {tmp_path}/b]"
    settings = [f"run.folder={tmp_path}", "run.name=one", train]
    run = create_run(load_config("digits_demo", settings), "one")
    plan = _check_plan(run, run.read_config(), 2)
    assert plan is not None
    assert plan.data == tmp_path / "a"
