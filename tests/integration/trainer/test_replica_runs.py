"""Real runs of several processes, in which one bit of the state of rank 1 flips."""

import os

import pytest
from poisoned_runs import Poisoned
from tiny_runs import Runs

from trainer.runs.run_folder import RunFolder

SETTINGS = (
    "guard.check_replicas_every=3",
    "checkpoint.every_steps=4",
    "checkpoint.keep_last=1",
    "train.global_batch=48",
)
NODE = os.uname().nodename


def checkpoints(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir() if path.is_dir())


def test_a_flipped_bit_stops_the_run_which_resumes_from_before_it_and_ends_as_an_undisturbed_one(
    runs: Runs, poisoned: Poisoned, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _ = poisoned.train("no_bit_flipped", *SETTINGS, nproc=3)
    assert code == 0

    # Equal after 6 steps, saved after 8, different after 9.
    code, run = poisoned.train("bit_flipped", *SETTINGS, nproc=3, flip="WEIGHTS:7")
    assert code == 2
    said = " ".join(capfd.readouterr().err.split())
    assert f"the state of rank 1 on {NODE} differs from that of most ranks: weights (backbone." in said
    assert "after step 9. The last equal comparison was at step 6" in said
    assert "now called suspect-1-step_00000008" in said
    assert f"all4one resume {run.path}. It goes on from step 4" in said
    assert "Traceback" not in said
    assert checkpoints(run) == ["step_00000004", "suspect-1-step_00000008"]
    assert (run.checkpoints / "latest").read_text().strip() == "step_00000004"

    # Different at the first comparison after the checkpoint that it loaded.
    assert poisoned.go_on(run, nproc=3, flip="OPTIMIZER:5") == 2
    # Different after 12 steps, where a checkpoint is due.
    assert poisoned.go_on(run, nproc=3, flip="QUEUE:11") == 2
    assert checkpoints(run) == ["step_00000004", "step_00000008", "suspect-1-step_00000008"]

    found = [record for record in runs.ledger("bit_flipped") if record["event"] == "replicas_differ"]
    assert [(r["attempt"], r["step"], r["last_equal"], r["to_step"]) for r in found] == [
        (1, 9, 6, 4),
        (2, 6, 4, 4),
        (3, 12, 9, 8),
    ]
    assert [r["set_aside"] for r in found] == [["suspect-1-step_00000008"], [], []]
    assert all((r["ranks"], r["nodes"], r["has_majority"]) == ([1], NODE, True) for r in found)
    assert "backbone.conv1.weight" in found[0]["tensors"]["weights"]
    assert "exp_avg/backbone.conv1.weight" in found[1]["tensors"]["optimizer state"]
    assert found[2]["tensors"] == {"neighbor queue": ["queue.rows"]}
    ends = [record for record in runs.ledger("bit_flipped") if record["event"] == "end"]
    assert [(r["attempt"], r["reason"]) for r in ends] == [(1, "error"), (2, "error"), (3, "error")]

    result = runs.resume("bit_flipped", nproc=3)
    assert result.code == 0, result.out
    runs.assert_same("no_bit_flipped", "bit_flipped")


def test_two_ranks_that_differ_before_the_first_equal_comparison_are_both_named_and_begin_again(
    runs: Runs, poisoned: Poisoned, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = (*SETTINGS, "guard.check_replicas_every=6", "parallel.zero_stage=1")
    code, run = poisoned.train("bit_flipped_of_two", *settings, flip="EMA:2")
    assert code == 2
    said = " ".join(capfd.readouterr().err.split())
    assert f"the state of ranks 0 on {NODE} and 1 on {NODE} differs, and no majority tells" in said
    assert "after step 6. The last equal comparison was at step 0" in said
    assert "momentum (EMA) encoder (momentum.backbone" in said
    record = next(r for r in runs.ledger("bit_flipped_of_two") if r["event"] == "replicas_differ")
    assert (record["ranks"], record["has_majority"], record["to_step"]) == ([0, 1], False, 0)
    assert checkpoints(run) == ["suspect-1-step_00000004"]

    result = runs.resume("bit_flipped_of_two")
    assert result.code == 0, result.out
    assert "step_00000014" in checkpoints(run)
    assert (
        next(r for r in runs.ledger("bit_flipped_of_two") if r["event"] == "ready" and r["attempt"] == 2)[
            "step"
        ]
        == 0
    )
