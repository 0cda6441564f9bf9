from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder
from trainer.runs.saved_progress import FROM_SCRATCH, REPLICAS_DIFFER, SAVED, refuse_lost_checkpoints


def steps(run: RunFolder, last: int) -> None:
    for step in range(1, last + 1):
        append_record(run.metrics, {"kind": "train", "step": step, "epoch": step / 10, "loss": 1.0})


@pytest.mark.parametrize(
    ("event", "facts", "step"),
    [
        (SAVED, {"step": 4}, 4),
        ("ready", {"step": 8, "total_steps": 20}, 8),
        ("end", {"reason": "interrupted", "step": 5}, 5),
        ("end", {"reason": "stalled", "saved": 12}, 12),
        ("rollback", {"to_step": 3}, 3),
        (REPLICAS_DIFFER, {"to_step": 3}, 3),
    ],
)
def test_a_checkpoint_on_record_that_is_gone_is_refused(
    tmp_path: Path, event: str, facts: dict[str, object], step: int
) -> None:
    run = RunFolder(tmp_path)
    run.note("start", attempt=1, world_size=1)
    run.note(event, attempt=1, **facts)
    with pytest.raises(UserError, match=f"a checkpoint of step {step} was saved") as caught:
        refuse_lost_checkpoints(run, checkpoint_every=100)
    assert caught.value.where == run.checkpoints
    assert "--from-scratch" in caught.value.fix
    run.note(FROM_SCRATCH)
    refuse_lost_checkpoints(run, checkpoint_every=100)
    run.note(event, attempt=2, **facts)
    with pytest.raises(UserError):
        refuse_lost_checkpoints(run, checkpoint_every=100)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    refuse_lost_checkpoints(run, checkpoint_every=4)
    run.note("start", attempt=1, world_size=1)
    run.note("ready", attempt=1, step=0, total_steps=20)
    steps(run, 5)  # the first checkpoint may have been cut short while the fifth step was done
    refuse_lost_checkpoints(run, checkpoint_every=4)
    refuse_lost_checkpoints(run, checkpoint_every=0)


def test_metrics_alone_show_that_there_was_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    steps(run, 8)
    with pytest.raises(UserError, match=r"metrics\.jsonl has steps up to 8"):
        refuse_lost_checkpoints(run, checkpoint_every=0)  # the ledger is gone too
    run.note("start", attempt=1, world_size=1)
    with pytest.raises(UserError, match=r"metrics\.jsonl has steps up to 8"):
        refuse_lost_checkpoints(run, checkpoint_every=4)  # of version 0.1, which notes no saves


def test_a_run_whose_checkpoints_were_all_set_aside_starts_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.note("start", attempt=1, world_size=2)
    run.note(SAVED, attempt=1, step=4)
    run.note(REPLICAS_DIFFER, attempt=1, step=6, ranks=[0, 1], nodes="a,b", to_step=0)
    run.note("end", attempt=1, reason="error")
    steps(run, 6)
    refuse_lost_checkpoints(run, checkpoint_every=4)
    run.note(SAVED, attempt=2, step=4)
    with pytest.raises(UserError):
        refuse_lost_checkpoints(run, checkpoint_every=4)
