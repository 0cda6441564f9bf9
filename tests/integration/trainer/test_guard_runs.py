"""Real runs of two processes of which one gets broken numbers."""

import math

import pytest
from poisoned_runs import Poisoned
from tiny_runs import NO_EVALUATION, STEPS, Runs

from trainer.checkpoints.store import CheckpointStore


@pytest.mark.parametrize(("fault", "zero"), [({"batches": "6-6"}, 0), ({"gradient": 6}, 1)])
def test_one_broken_step_is_left_out_on_every_rank(
    poisoned: Poisoned, fault: dict[str, object], zero: int, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"left_out_{'_'.join(fault)}_{zero}"
    code, _ = poisoned.train(name, f"parallel.zero_stage={zero}", "method.queue.check_every=1", **fault)
    assert code == 0
    records = poisoned.runs.metrics(name)
    assert [r["step"] for r in records if r["kind"] == "train"] == [*range(1, STEPS + 1)]
    broken = records[6]
    assert ("gradient_norm" in broken, broken["skipped_steps"]) == (False, 1)
    assert records[-1]["skipped_steps"] == 1
    assert all(math.isfinite(r["loss"]) for r in records[7:])
    bad = [
        n for n, t in poisoned.runs.tensors(name).items() if t.is_floating_point() and not t.isfinite().all()
    ]
    assert not bad
    assert "1 steps were skipped so far" in " ".join(capfd.readouterr().err.split())


def test_broken_batches_are_gone_around_from_the_checkpoint_before_them_and_a_kill_changes_nothing(
    poisoned: Poisoned,
) -> None:
    settings = ("guard.max_skips=3", "checkpoint.every_steps=4")
    code, run = poisoned.train("goes_around", *settings, batches="6-12")
    assert code == 0
    back = [r for r in poisoned.runs.ledger("goes_around") if r["event"] == "rollback"]
    # batches 6, 7 and 8 are known to be broken once step 9 is done: 4 to 9 are skipped, then 10 to 13
    assert [(r["from_step"], r["to_step"], r["skipped_batches"]) for r in back] == [(10, 4, 6), (8, 4, 10)]
    records = poisoned.runs.metrics("goes_around")
    assert [r["step"] for r in records] == [*range(1, STEPS + 1)]
    assert records[-1]["skipped_steps"] == 0
    state = CheckpointStore(run.checkpoints).newest_state()
    assert state is not None
    assert state["rollback"] == {"skipped_batches": 10, "rollbacks": 2, "rolled_back_to": 4}
    assert (state["epoch"], state["position"]) == (1, 64)

    code, run = poisoned.train("goes_around_killed", *settings, batches="6-12", kill=9)
    assert code == 137
    assert poisoned.go_on(run, batches="6-12") == 0
    poisoned.runs.assert_same("goes_around", "goes_around_killed")


def test_each_return_goes_further_back_and_none_forward(poisoned: Poisoned) -> None:
    code, _ = poisoned.train("further", "guard.max_skips=2", "checkpoint.every_steps=3", batches="6-999")
    assert code == 2
    back = [r["to_step"] for r in poisoned.runs.ledger("further") if r["event"] == "rollback"]
    assert back == [6, 3, 3]


def test_a_run_that_cannot_get_around_stops_and_says_so(
    poisoned: Poisoned, capfd: pytest.CaptureFixture[str]
) -> None:
    code, run = poisoned.train("stuck", "guard.max_skips=2", "guard.max_rollbacks=1", batches="6-999")
    assert code == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "2 consecutive steps" in said
    assert "has already rolled back 1 times" in said
    assert "optim.lr" in said
    assert "Traceback" not in said
    assert poisoned.runs.ledger("stuck")[-1]["reason"] == "error"
    assert CheckpointStore(run.checkpoints).load_newest() is not None


def test_a_learning_rate_that_breaks_the_weights_stops_the_run(runs: Runs) -> None:
    result = runs.train(
        "too_fast",
        "optim.name=sgd",
        "optim.lr=1e30",
        "optim.warmup_epochs=0",
        "guard.max_skips=2",
        NO_EVALUATION,
    )
    assert result.code == 2
    assert "no good checkpoint to roll back to" in result.words
    assert "has loss nan" in result.words
    assert "Traceback" not in result.out
