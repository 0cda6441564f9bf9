from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed_ranks import batches, engine_of, everything, tiny, train
from rank_processes import run_as_ranks
from small_methods import SMALL
from torch import Tensor

from trainer.engine.deepspeed_engine import Engine
from trainer.engine.divergence_guard import BatchStatistics
from trainer.engine.step_undo import StepUndo
from trainer.networks.backbones import BackboneSettings, build_backbone

Undone = dict[str, tuple[bool, dict[str, Tensor], dict[str, Tensor]]]
OVERRIDES = ("train.grad_accum_steps=2", "method.transformer_dropout=0.1")


def interrupted(engine: Engine, attribute: str, call: int, step: Callable[[], Any]) -> None:
    """Run a step that ends with an exception before a call of the method or the engine."""
    owner = engine if hasattr(engine, attribute) else engine.method
    real, calls = getattr(owner, attribute), iter(range(100))

    def failing(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("Connection closed by peer")
        return real(*args, **options)

    setattr(owner, attribute, failing)
    try:
        with pytest.raises(RuntimeError, match="closed by peer"):
            step()
    finally:
        setattr(owner, attribute, real)


def on_two_ranks() -> Undone:
    found: Undone = {}
    for where, call in (("losses", 1), ("after_backward", 0), ("after_backward", 1), ("_clip", 0)):
        config = tiny(*OVERRIDES)
        with engine_of(config) as engine:
            train(engine, config, range(2))
            before = everything(engine)
            interrupted(engine, where, call, lambda e=engine, c=config: train(e, c, range(2, 3)))  # type: ignore[misc]
            found[f"{where} {call}"] = engine.undo_step(), before, everything(engine)
    config = tiny(*OVERRIDES)
    with engine_of(config) as engine:
        train(engine, config, range(2))
        before = everything(engine)
        found["between steps"] = engine.undo_step(), before, everything(engine)
        interrupted(engine, "after_step", 0, lambda: engine.step(2, batches(config, 2)))
        found["in the update"] = engine.undo_step(), before, before
    return found


@pytest.fixture(scope="module")
def undone(tmp_path_factory: pytest.TempPathFactory) -> list[Undone]:
    return run_as_ranks(on_two_ranks, 2, tmp_path_factory.mktemp("ranks"), ())


def test_a_step_that_ends_before_its_update_is_undone_bit_for_bit(undone: list[Undone]) -> None:
    for found in undone:
        for where, (holds, before, after) in found.items():
            assert holds == (where != "in the update"), where
            different = [name for name in before if not torch.equal(before[name], after[name])]
            assert not different, (where, different)


def stage_1() -> bool:
    config = tiny("parallel.zero_stage=1")
    with engine_of(config) as engine:
        train(engine, config, range(1))
        return engine.undo_step()


def test_a_rank_that_holds_a_part_of_the_optimizer_s_state_does_not_hold_the_step(tmp_path: Path) -> None:
    assert run_as_ranks(stage_1, 2, tmp_path, ()) == [False, False]


def test_further_buffers_of_a_method_are_put_back() -> None:
    method = SMALL["simclr"].build(build_backbone(BackboneSettings(name="resnet18", width=8), 32), 10)
    method.register_buffer("center", torch.zeros(4))
    undo = StepUndo(method, BatchStatistics(method))
    undo.undo()  # no step has begun
    undo.begin()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method.center += 1  # type: ignore[operator, assignment]
    method.train()([torch.randn(4, 3, 32, 32)] * 2, torch.zeros(4, dtype=torch.long), torch.arange(4))
    changed = {name for name, buffer in method.named_buffers() if not torch.equal(buffer, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {
        "center",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    undo.undo()
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())
