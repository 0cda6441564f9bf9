import json
import time
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.node_check.record import NODE_CHECK
from launch.slurm import slurm_commands
from launch.slurm.submitted_jobs import Submissions
from launch.status.run_status import status
from launch.status.tables import print_status
from trainer.runs.rank_times import RANK_TIMES, STRAGGLER, RankTime
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock
from trainer.runs.saved_progress import FROM_SCRATCH


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of 100 steps that is at step 40, submitted as job 7."""
    run = RunFolder(tmp_path / "runs" / "one")
    run.path.mkdir(parents=True)
    run.config.write_text("train: {global_batch: 64}\n")
    checkpoint = run.checkpoints / "step_00000030"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": 30, "saved": time.time() - 50}))
    (run.checkpoints / "latest").write_text("step_00000030\n")
    run.metrics.write_text(
        json.dumps({"kind": "train", "step": 40, "time": {"images_per_second": 128.0}}) + "\n"
    )
    Submissions(run).folder.mkdir()
    Submissions(run).note(["7"], 2, 1)
    run.note("start", attempt=1, world_size=2, nodes="node[1-2]")
    run.note("ready", attempt=1, step=0, total_steps=100)
    return run


def test_a_running_job_shows_speed_time_left_and_the_age_of_its_checkpoint(run: RunFolder) -> None:
    found = status(run, slurm_commands.Job("7", "RUNNING", "node[1-2]"), "7")
    assert (found.state, found.job, found.nodes) == ("running", "7", "node[1-2]")
    assert (found.step, found.total_steps, found.attempts) == (40, 100, 1)
    assert found.seconds_left == pytest.approx(60 * 64 / 128)
    assert found.checkpoint_step == 30
    assert found.checkpoint_seconds == pytest.approx(50, abs=5)


def test_a_job_that_waits_says_for_what(run: RunFolder) -> None:
    found = status(run, slurm_commands.Job("7", "PENDING", "", "Resources"), "7")
    assert (found.state, found.why, found.seconds_left) == ("pending", "Resources", None)


def test_without_slurm_the_folder_says_what_it_knows(run: RunFolder) -> None:
    assert status(run, None, "7").state == "killed"
    with RunLock(run.path):
        assert status(run, None, "7").state == "running"
    run.note("end", attempt=1, reason="error", message="the loss is nan")
    found = status(run, None, "7")
    assert (found.state, found.why) == ("error", "the loss is nan")


def test_a_folder_of_runs_is_one_table_also_where_the_controller_is_down(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path.parent / "two").mkdir()
    (run.path.parent / "two" / "config.yaml").write_text("train: {global_batch: 64}\n")

    def down(*_: object) -> None:
        raise slurm_commands.Unanswered("SLURM's controller does not answer")

    monkeypatch.setattr(slurm_commands, "jobs", down)
    print_status(run.path.parent, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert "does not answer" in said["problem"]
    assert [one["state"] for one in said["runs"]] == ["killed", "new"]
    print_status(run.path.parent, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "40/100" in shown
    assert "does not answer" in shown


def test_what_is_no_run_is_named_and_keeps_no_other_from_the_table(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    folder = run.path.parent
    for name, content in (("other", "model: resnet\n"), ("torn", "train: {")):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(content)
    print_status(folder, as_json=False)
    shown = capsys.readouterr().out
    assert "one" in shown
    assert f"skipped: {folder}/other/config.yaml is not the configuration of a run" in shown
    assert f"skipped: {folder}/torn/config.yaml" in shown
    with pytest.raises(UserError, match=r"other/config.yaml: is not the configuration of a run"):
        print_status(folder / "other", as_json=False)


def test_a_run_that_began_again_from_scratch_is_shown(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "jobs", lambda *_: {})
    run.note("end", attempt=1, reason="killed", message="node2, task 1: Killed", saved=30)
    run.note(FROM_SCRATCH)
    found = status(run, None, None)
    assert (found.state, found.attempts, found.history[0].reason) == ("killed", 1, "killed")
    run.note("start", attempt=2, world_size=2)
    run.note("ready", attempt=2, step=0, total_steps=100, replayed=40)
    found = status(run, None, None)
    assert [(one.first_step, one.kept) for one in found.history] == [(0, 0), (0, 30)]
    print_status(run.path, as_json=False)
    assert "40/100" in capsys.readouterr().out


def test_runs_of_sweeps_have_the_name_of_their_sweep_and_values_are_whole_when_piped(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "jobs", lambda *_: {})
    monkeypatch.setenv("COLUMNS", "60")
    words = "node2, task 1: " + "memory ran out, request more with --mem; " * 5
    run.note("end", attempt=1, reason="killed", message=words, saved=30)
    name = "backbone.name=resnet50,optim.lr=0.3,seed=0"
    moved = RunFolder(run.path.parent / "rates" / name)
    moved.path.parent.mkdir()
    run.path.rename(moved.path)
    print_status(run.path.parent, as_json=False)
    shown = capsys.readouterr().out
    assert f"│ rates/{name} │ killed │ 7   │ node[1-2] │ 40/100 │" in shown
    assert f"│ killed: {words}" in shown
    assert f"\nrates/{name}: {words}" in shown


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        print_status(tmp_path, as_json=False)


def test_what_attempts_did_and_cost_is_in_the_sums_and_of_a_single_run_in_a_table(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    run.note("end", attempt=1, reason="killed", message="node2, task 1: Killed", saved=30)
    monkeypatch.setattr(slurm_commands, "jobs", lambda *_: {})
    print_status(run.path, as_json=True)
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    (attempt,) = found["history"]
    assert (attempt["reason"], attempt["kept"], attempt["lost"], found["lost_steps"]) == (
        "killed",
        30,
        10,
        10,
    )
    assert found["hours"] == attempt["hours"]
    assert set(found["hours"]) == {"useful", "lost", "starting"}
    print_status(run.path, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "│ node[1-2] │ 30 │ │ killed: node2, task 1:" in shown
    assert "redone (10 steps)" in shown


def test_a_machine_that_fails_again_and_again_is_named_with_the_command_that_leaves_it_out(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "jobs", lambda *_: {})
    for attempt in (1, 2):
        run.note("end", attempt=attempt, reason="killed", message="node2, task 1: Killed", saved=0)
        run.note("start", attempt=attempt + 1, world_size=2, nodes="node[2-3]")
    print_status(run.path, as_json=False)
    said = f"node2 was in 3 of 3 failed attempts. To exclude it: all4one resume {run.path} --exclude-suspects"
    assert said in capsys.readouterr().out


def test_the_command_that_leaves_a_machine_out_can_be_copied_also_if_a_path_has_a_space(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "jobs", lambda *_: {})
    moved = RunFolder(run.path.rename(run.path.with_name("my run")))
    for attempt in (1, 2):
        moved.note("end", attempt=attempt, reason="killed", message="node2, task 1: Killed", saved=0)
        moved.note("start", attempt=attempt + 1, world_size=2, nodes="node[2-3]")
    print_status(moved.path, as_json=False)
    assert f"all4one resume '{moved.path}' --exclude-suspects" in capsys.readouterr().out


def test_why_processes_never_came_up_is_said_where_it_was_noted(run: RunFolder) -> None:
    run.ledger.unlink()
    run.note("end", attempt=0, reason="error", message="module: command not found")
    found = status(run, slurm_commands.Job("7", "FAILED", "node1"), "7")
    assert (found.state, found.why, found.attempts) == ("error", "module: command not found", 0)


def test_why_a_later_start_never_came_up_is_said_before_how_the_attempt_ended(run: RunFolder) -> None:
    run.note("end", attempt=1, reason="time is up", step=40)
    run.note("end", attempt=1, reason="stalled", message="no step for 60 s", saved=40)
    found = status(run, slurm_commands.Job("7", "FAILED", "node1"), "7")
    assert (found.state, found.why) == ("stalled", "no step for 60 s")
    assert found.history[0].reason == "time is up"


def test_a_slow_rank_is_told_with_its_node_which_becomes_suspect(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [
        {"rank": rank, "node": f"node{rank + 1}", "milliseconds": 100 + 20.0 * rank, "slower": 0.2 * rank}
        for rank in (0, 1)
    ]
    run.rank_times.write_text(json.dumps(times))
    run.note(RANK_TIMES, attempt=1, step=101, times=times)
    run.note(STRAGGLER, attempt=1, step=101, rank=1, node="node2", slower=0.2)
    found = status(run, None, "7")
    assert found.ranks == [RankTime(0, "node1", 100, 0), RankTime(1, "node2", 120, 0.2)]
    assert found.suspects == ["node2"]
    assert found.history[0].slow_nodes == ("node2",)
    print_status(run.path, as_json=False)
    out = capsys.readouterr().out
    assert (
        "one: own compute time of a step is 100 ms at the median, and 20 % more on the slowest rank, 1 on node2"
        in out
    )
    assert "one: node2 was in 1 of 1 failed attempts and was slow in 1 of 1 attempts. To exclude it" in out
    print_status(run.path, as_json=True)
    assert json.loads(capsys.readouterr().out)["runs"][0]["ranks"] == times


def test_damaged_times_of_ranks_are_left_out(run: RunFolder) -> None:
    run.rank_times.write_text('[{"rank": 0}]')
    assert status(run, None, "7").ranks == []


def test_times_of_ranks_after_the_end_hide_nothing(run: RunFolder) -> None:
    run.note("end", attempt=1, reason="stalled", message="rank 1 on node2 hangs")
    run.note(RANK_TIMES, attempt=1, step=101, times=[])
    assert status(run, None, "7").why == "rank 1 on node2 hangs"


def test_a_check_of_nodes_is_told_and_ends_nothing(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = status(run, None, "7").state
    found = {"count": 3, "seconds": 6.28, "stopped": False, "links": [], "common": []}
    run.note(NODE_CHECK, attempt=1, bad={"node2": ["JPEG decode: slow"]}, swapped={"node2": "node3"}, **found)
    assert status(run, None, "7").suspects == ["node2"]
    run.note(NODE_CHECK, attempt=2, bad={}, swapped={}, **found)
    newest = status(run, None, "7")
    assert newest.state == ended
    assert newest.node_check is not None
    assert (newest.node_check.attempt, newest.node_check.bad) == (2, {})
    print_status(run.path, as_json=False)
    assert "one: the check of 3 nodes took 6.3 s and found no fault" in capsys.readouterr().out
    print_status(run.path, as_json=True)
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert told["node_check"]["seconds"] == 6.28
    assert told["history"][0]["bad_nodes"] == ["node2"]
