"""Real runs at ZeRO stages 1 and 2 that lose ranks, and go on from the copies that neighbors keep."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, run_program
from tiny_runs import Runs

from trainer.runs.saved_progress import OF_COPIES

EVERY = 3
EXCHANGE = 12  # a step after which shards are exchanged
CHECKPOINT = "checkpoint"


def kill(step: int, point: str, rank: int, number: int = 0) -> dict[str, Any]:
    """A kill of a rank at a point of `benchmarks/killed_rank.py`, `step` steps after the start."""
    return {"step": step, "point": point, "number": number, "rank": rank}


def lost_ranks(
    digits: Path, folder: Path, nproc: int, plan: list[dict[str, Any]], *settings: str
) -> dict[str, Any]:
    """Train a run of which ranks are killed as planned, and one without kills. Returns what the kills have cost."""
    results = folder / "results.json"
    steps = max(one["step"] for one in plan) + 3
    command = ("--nproc", nproc, "--steps", steps, "--data", digits, "--plan", json.dumps(plan))
    done = run_program(
        ROOT / "benchmarks" / "lost_ranks.py",
        *(*command, "--json", results, "--settings"),
        *("checkpoint.every_steps=100", "eval.every_epochs=0", *settings),
    )
    assert results.exists(), done.out[-3000:]
    found: dict[str, Any] = json.loads(results.read_text())
    assert found["bitwise"], done.out[-3000:]
    assert found["kills_not_reached"] == 0
    return found


@pytest.mark.parametrize(("zero", "nproc", "optimizer"), [(1, 2, "adamw"), (1, 3, "lars"), (2, 3, "sgd")])
def test_a_lost_rank_costs_at_most_the_steps_since_the_last_copies(
    digits: Path, tmp_path: Path, zero: int, nproc: int, optimizer: str
) -> None:
    plan = [
        kill(4, "after wait for data", rank=0),
        kill(8, "before all_gather_into_tensor", rank=1, number=3),  # in the update, which then is torn
        kill(EXCHANGE - 1, "after exchange", rank=nproc - 1),
        kill(EXCHANGE + 2 * EVERY - 1, "before exchange", rank=0),
    ]
    result = lost_ranks(
        digits,
        tmp_path,
        nproc,
        plan,
        f"parallel.zero_stage={zero}",
        f"checkpoint.replicate_every={EVERY}",
        f"optim.name={optimizer}",
        "optim.lr=0.05",
    )
    restarts = result["restarts"]
    assert [one["lost"] for one in restarts] == [[one["rank"]] for one in plan]
    assert {one["source"] for one in restarts} == {OF_COPIES}
    assert max(one["redone"] for one in restarts) <= EVERY
    assert all(one["from"] % EVERY == 0 for one in restarts)


def test_a_rank_that_is_lost_with_its_neighbor_costs_the_steps_since_the_last_checkpoint(
    digits: Path, tmp_path: Path
) -> None:
    plan = [kill(13, "after forward", rank=1), kill(13, "after forward", rank=2)]
    result = lost_ranks(
        digits,
        tmp_path,
        3,
        plan,
        "parallel.zero_stage=1",
        f"checkpoint.replicate_every={EVERY}",
        "checkpoint.every_steps=8",
    )
    assert [(one["lost"], one["from"], one["source"]) for one in result["restarts"]] == [
        ([1, 2], 8, CHECKPOINT)
    ]


def test_without_copies_the_last_checkpoint_counts(digits: Path, tmp_path: Path) -> None:
    result = lost_ranks(
        digits,
        tmp_path,
        2,
        [kill(13, "before forward", rank=1)],
        "parallel.zero_stage=1",
        "checkpoint.replicate_every=0",
        "checkpoint.every_steps=8",
    )
    assert [(one["lost"], one["from"], one["source"]) for one in result["restarts"]] == [([1], 8, CHECKPOINT)]


STUCK = """
import os, signal, sys, time
from pathlib import Path
from launch.cli import main
from trainer.engine.deepspeed_engine import Engine

real = Engine.step
def step(self, number, *args, **options):
    mark = Path({folder!r}) / os.environ["RANK"]
    if number == 13 and not mark.exists():
        mark.touch()
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)
    return real(self, number, *args, **options)
Engine.step = step
sys.argv[0] = "all4one"
main()
"""


def test_copies_are_used_even_if_the_main_threads_of_all_ranks_that_are_left_wait_for_ever(
    runs: Runs, tmp_path: Path
) -> None:
    settings = ("parallel.zero_stage=1", "checkpoint.replicate_every=4", "checkpoint.every_steps=100")
    settings += ("train.max_steps=16", "train.global_batch=48")
    result = runs.train("shards_straight", *settings, nproc=3)
    assert result.code == 0, result.out
    program = tmp_path / "stuck.py"
    program.write_text(STUCK.format(folder=str(tmp_path)))
    stuck = run_program(program, *runs.arguments("shards_stuck", *settings), "--nproc", 3)
    assert stuck.code == 0, stuck.out
    (survived,) = (r for r in runs.ledger("shards_stuck") if r["event"] == "survived")
    assert (survived["step"], survived["rank"], survived["source"]) == (12, 0, OF_COPIES)
    runs.assert_same("shards_stuck", "shards_straight")
