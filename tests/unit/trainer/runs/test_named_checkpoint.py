from pathlib import Path

import pytest
from checkpoints import snapshot

from data_pipelines.errors import UserError
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.runs.best_checkpoint import BestCheckpoint, best_checkpoint, kept_metric
from trainer.runs.named_checkpoint import checkpoint_path, named_checkpoint
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder, create_run

BEST = "checkpoint.keep_best=knn_momentum"
EVALUATIONS = ((0, 0.9), (2, 0.3), (4, 0.6), (6, 0.5), (8, 0.8))


def run_at(folder: Path, *overrides: str) -> RunFolder:
    """A run with checkpoints of three steps, and an evaluation of these, of step 0 and of a step without one."""
    config = load_config("digits_demo", [f"run.folder={folder}", "run.name=run", *overrides])
    run = create_run(config, "run")
    for step, value in EVALUATIONS:
        append_record(run.metrics, {"kind": "train", "step": step, "loss": 1.0, "knn_momentum": 2.0})
        append_record(run.metrics, {"kind": "eval", "step": step, "epoch": 1.0, "knn_momentum": value})
    for step in (2, 4, 6):
        CheckpointStore(run.checkpoints, attempt=1).write(snapshot(step))
    return run


def test_the_best_checkpoint_is_that_of_the_best_evaluated_step_that_has_one(tmp_path: Path) -> None:
    run = run_at(tmp_path, BEST)
    assert best_checkpoint(run) == BestCheckpoint(4, "knn_momentum", 0.6)
    assert named_checkpoint(f"{run.path}@best").path == run.checkpoints / "step_00000004"
    assert checkpoint_path(Path(f"{run.path}@best")) == run.checkpoints / "step_00000004"
    assert named_checkpoint(f"{run.path}@2").state["step"] == 2
    assert named_checkpoint(str(run.path)).state["step"] == 6


def test_records_that_a_resume_drops_count_no_more(tmp_path: Path) -> None:
    run = run_at(tmp_path, BEST)
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text(
        "".join(line for line in lines if '"step": 4' not in line) + '{"kind": "eval", "st'
    )
    assert best_checkpoint(run) == BestCheckpoint(6, "knn_momentum", 0.5)


def test_without_a_best_checkpoint_the_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = run_at(tmp_path)
    assert (kept_metric(run), best_checkpoint(run)) == ("", None)
    with pytest.raises(UserError, match=r"checkpoint\.keep_best is empty"):
        named_checkpoint(f"{run.path}@best")
    run.write_config(load_config("digits_demo", [BEST]))
    run.metrics.unlink()
    assert (kept_metric(run), best_checkpoint(run)) == ("knn_momentum", None)
    with pytest.raises(UserError, match="has been evaluated with knn_momentum yet"):
        named_checkpoint(f"{run.path}@best")
    with pytest.raises(UserError, match="no checkpoint of step 7") as caught:
        named_checkpoint(f"{run.path}@7")
    assert "2, 4, 6" in str(caught.value)


def test_a_path_that_exists_or_names_no_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    odd = tmp_path / "run@best"
    odd.mkdir()
    for path in (odd, tmp_path, tmp_path / "a@b", Path("@best")):
        assert checkpoint_path(path) == path
