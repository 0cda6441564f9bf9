import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from deepspeed_ranks import tiny

from data_pipelines.errors import UserError
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.loss_flag import LossFlag
from trainer.distributed.process_group import Process
from trainer.engine.replicas import Comparison, StateKind, replicas_of
from trainer.runs.components import AttemptContext, build_method
from trainer.runs.records import read_ledger
from trainer.runs.replica_checks import ReplicaChecks
from trainer.runs.run_folder import RunFolder

CPU = torch.device("cpu")


@dataclass
class Checkpoints:
    """Remembers what it is asked for."""

    trusted: list[int] = field(default_factory=list)
    set_aside_after: list[int] = field(default_factory=list)

    def trust(self, step: int) -> None:
        self.trusted.append(step)

    def set_aside(self, step: int) -> tuple[list[str], int]:
        self.set_aside_after.append(step)
        return ["suspect-1-step_00000009"], step - 1


def checks_of(folder: Path, *overrides: str) -> tuple[ReplicaChecks, Checkpoints, torch.Tensor]:
    """Checks of a run of 12 steps, its checkpoints, and the rows of its queue."""
    config = tiny(*overrides)
    method = build_method(config, 10, CPU)
    process = Process(rank(), rank(), world_size(), CPU)
    attempt = AttemptContext(RunFolder(folder), config, process, 1, None)

    def compare(kinds: Sequence[StateKind] = tuple(StateKind)) -> Comparison:
        return Comparison(replicas_of(method, {}), kinds, CPU)

    engine = cast(Any, SimpleNamespace(method=method, compare_replicas=compare, loss_flag=LossFlag(CPU)))
    checkpoints = Checkpoints()
    assert method.queue is not None
    return ReplicaChecks(attempt, engine, 12, checkpoints), checkpoints, method.queue.rows


def trusted_steps(folder: Path, *overrides: str) -> list[int]:
    checks, checkpoints, _ = checks_of(folder, *overrides)
    checks.begin_at(1)
    for step in range(2, 13):
        checks.after_step(step)
    checks.finish()
    return checkpoints.trusted


@pytest.mark.parametrize(
    ("every", "queue_every", "trusted"),
    [(5, 2, [1, 5, 10, 12]), (0, 4, [1, 4, 8, 12]), (0, 0, [])],
)
def test_steps_that_make_checkpoints_trusted(
    run_ranks: Callable[..., Any], tmp_path: Path, every: int, queue_every: int, trusted: list[int]
) -> None:
    settings = (f"guard.check_replicas_every={every}", f"method.queue.check_every={queue_every}")
    assert run_ranks(trusted_steps, 2, tmp_path, *settings) == [trusted] * 2


def test_one_process_compares_nothing(run_ranks: Callable[..., Any], tmp_path: Path) -> None:
    assert run_ranks(trusted_steps, 1, tmp_path, "guard.check_replicas_every=1") == [[]]


def queue_that_differs_after_step_7(folder: Path) -> tuple[int, str, list[int]]:
    """The step at which the difference is told, the error, and the steps after which checkpoints are set aside."""
    settings = ("guard.check_replicas_every=5", "method.queue.check_every=2")
    checks, checkpoints, rows = checks_of(folder, *settings)
    checks.begin_at(0)
    for step in range(1, 13):
        if step == 8 and rank() == 2:
            rows[3, 1] += 1
        try:
            checks.after_step(step)
        except UserError as error:
            return step, str(error), checkpoints.set_aside_after
    raise AssertionError("no difference was found")


def test_a_difference_is_told_one_step_later_by_all_ranks_and_recorded_by_the_first(
    run_ranks: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_ranks(queue_that_differs_after_step_7, 3, tmp_path)
    assert [step for step, _, _ in results] == [9] * 3
    assert len({error for _, error, _ in results}) == 1
    assert "after step 8. The last equal comparison was at step 5" in results[0][1]
    assert "suspect-1-step_00000009" in results[0][1]
    assert "It goes on from step 4" in results[0][1]
    assert [after for _, _, after in results] == [[5], [], []]
    (record,) = read_ledger(tmp_path / "ledger.jsonl")
    assert (record["event"], record["step"], record["last_equal"]) == ("replicas_differ", 8, 5)
    assert (record["ranks"], record["to_step"]) == ([2], 4)
    assert (record["tensors"], record["num_tensors"]) == (
        {"neighbor queue": ["queue.rows"]},
        {"neighbor queue": 1},
    )


def queue_that_differs_at_the_start(folder: Path) -> str:
    checks, _, rows = checks_of(folder)
    rows[0, 0] += rank() == 1
    os.environ |= {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": f"node{rank()}"}  # of this process alone
    with pytest.raises(UserError) as error:
        checks.begin_at(4)
    return str(error.value)


def test_under_slurm_the_node_is_excluded(run_ranks: Callable[..., Any], tmp_path: Path) -> None:
    (said, *_) = run_ranks(queue_that_differs_at_the_start, 3, tmp_path)
    assert "the state of rank 1 on node1 differs from that of most ranks: neighbor queue (queue.rows)" in said
    assert "after step 4. Training began with this state" in said
    assert f"all4one resume {tmp_path} --exclude node1." in said
    (said, *_) = run_ranks(queue_that_differs_at_the_start, 2, tmp_path)
    assert "ranks 0 on node0 and 1 on node1 differs" in said
    assert "--exclude" not in said
