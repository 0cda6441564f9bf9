"""Runs with optimizer state in shares: killed, resumed, and taken over by another number of processes and stage."""

import shutil

import pytest
import torch


@pytest.fixture(scope="module")
def shares(runs) -> str:
    """Name of a run at stage 1 that nothing disturbed."""
    result = runs.train("shares", "parallel.zero_stage=1")
    assert result.code == 0, result.out
    return "shares"


def test_a_killed_run_at_stage_1_ends_bitwise_where_an_undisturbed_one_does(runs, shares) -> None:
    process = runs.start(*runs.arguments("killed_shares", "parallel.zero_stage=1"), "--nproc", 2)
    runs.wait_for_step("killed_shares", 6, process)
    runs.kill(process)
    assert (runs.path("killed_shares").checkpoints / "step_00000004").is_dir()
    result = runs.resume("killed_shares")
    assert result.code == 0, result.out
    runs.assert_same("killed_shares", shares)


def test_another_number_of_processes_and_stage_goes_on_with_the_same_samples(runs, shares) -> None:
    before, after = runs.path(shares), runs.path("moved")
    shutil.copytree(before.path, after.path)
    after.ledger.unlink()
    for path in after.checkpoints.glob("step_*"):
        if path.name != "step_00000008":
            shutil.rmtree(path)
    (after.checkpoints / "latest").write_text("step_00000008\n")
    result = runs.resume("moved", "parallel.zero_stage=2", nproc=1)
    assert result.code == 0, result.out
    found, expected = runs.tensors("moved"), runs.tensors(shares)
    assert found.keys() == expected.keys()
    assert torch.equal(found["queue.ids"], expected["queue.ids"])
    losses = [[r["loss"] for r in runs.metrics(n) if r["kind"] == "train"] for n in ("moved", shares)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
