from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed_ranks import batches, engine_of, everything, tiny, train
from rank_processes import run_as_ranks
from small_methods import SMALL
from torch import Tensor

from trainer.engine.batch_statistics import BatchStatistics
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.divergence_guard import Guard, GuardSettings
from trainer.engine.step_undo import StepUndo
from trainer.methods import Method
from trainer.networks.backbones import BackboneSettings, build_backbone

Undone = dict[str, tuple[int | None, dict[str, Tensor], dict[str, Tensor]]]
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
            train(engine, config, range(1))
            before = everything(engine)
            interrupted(engine, where, call, lambda e=engine, c=config: train(e, c, range(1, 2)))  # type: ignore[misc]
            found[f"{where} {call}"] = engine.undo_unfinished(), before, everything(engine)
    config = tiny(*OVERRIDES)
    with engine_of(config) as engine:
        train(engine, config, range(1))
        before = everything(engine)
        found["between steps"] = engine.undo_unfinished(), before, everything(engine)
        interrupted(engine, "after_step", 0, lambda: engine.step(1, batches(config, 1)))
        found["in the update"] = engine.undo_unfinished(), before, before
    return found


@pytest.fixture(scope="module")
def undone(tmp_path_factory: pytest.TempPathFactory) -> list[Undone]:
    return run_as_ranks(on_two_ranks, 2, tmp_path_factory.mktemp("ranks"), ())


def test_a_step_that_ends_before_its_update_is_undone_bit_for_bit(undone: list[Undone]) -> None:
    for found in undone:
        for where, (holds, before, after) in found.items():
            assert holds == (None if where == "in the update" else 0), where
            different = [name for name in before if not torch.equal(before[name], after[name])]
            assert not different, (where, different)


def left_out(optimizer: str) -> dict[str, tuple[int | None, list[str]]]:
    """Return what is undone, and the tensors that then differ, when a peer is lost while the host runs ahead."""
    found: dict[str, tuple[int | None, list[str]]] = {}
    for run, begun in ((0, False), (1, False), (1, True), (2, False), (2, True), (3, False)):
        config = tiny(*OVERRIDES, f"optim.name={optimizer}")
        with engine_of(config) as engine:
            train(engine, config, range(1))  # which makes all state of the optimizer
            before, guard = everything(engine), engine.guard.state_dict()
            engine.loss_flag.set()
            train(engine, config, range(1, 1 + run))
            if begun:
                interrupted(engine, "_clip", 0, lambda e=engine, c=config: train(e, c, range(9, 10)))  # type: ignore[misc]
            undone, after = engine.undo_unfinished(), everything(engine)
            different = [key for key in before if not torch.equal(before[key], after[key])]
            if engine.guard.state_dict() != guard:
                different.append("guard")
            found[f"{run} {begun}"] = undone, different
    return found


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "sgd"])
def test_steps_that_the_device_leaves_out_are_undone_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    for found in run_as_ranks(left_out, 2, tmp_path, (optimizer,)):
        for case in ("0 False", "1 False", "1 True", "2 False"):
            assert found[case] == (int(case[0]), []), case
        for case in ("2 True", "3 False"):  # further ahead than the host can be
            assert found[case][0] is None, case


class OwnRule(Method):
    """A method whose momentum encoder follows a rule of its own."""

    def after_step(self, step: int, total_steps: int) -> None:
        super().after_step(step, total_steps)


def own_rule() -> list[int | None]:
    config = tiny()
    with engine_of(config) as engine:
        train(engine, config, range(1))
        own = type("Own", (type(engine.method),), {"after_step": OwnRule.after_step})
        engine.method.__class__ = own
        found = [engine.undo_unfinished()]
        engine.loss_flag.set()
        found.append(engine.undo_unfinished())
        engine._left_out += 1
        return [*found, engine.undo_unfinished()]


def test_steps_that_an_own_rule_has_seen_are_not_undone(tmp_path: Path) -> None:
    assert run_as_ranks(own_rule, 1, tmp_path, ()) == [[0, 0, None]]


def stage_1() -> int | None:
    config = tiny("parallel.zero_stage=1")
    with engine_of(config) as engine:
        train(engine, config, range(1))
        return engine.undo_unfinished()


def test_a_rank_that_holds_a_part_of_the_optimizer_s_state_does_not_hold_the_step(tmp_path: Path) -> None:
    assert run_as_ranks(stage_1, 2, tmp_path, ()) == [None, None]


def test_further_buffers_of_a_method_are_put_back() -> None:
    method = SMALL["simclr"].build(build_backbone(BackboneSettings(name="resnet18", width=8), 32), 10)
    method.register_buffer("center", torch.zeros(4))
    undo = StepUndo(method, BatchStatistics(method), Guard(GuardSettings(), torch.device("cpu")), steps=1)
    assert undo.undo()  # no step has begun
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
    assert undo.undo()
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())


def moved_center() -> tuple[int | None, list[str], list[str]]:
    """What is undone of a step of DINO, and the tensors that differ while it is interrupted and afterwards."""
    config = tiny().model_copy(update={"method": SMALL["dino"]})
    with engine_of(config) as engine:
        train(engine, config, range(2))
        before = everything(engine)
        interrupted(engine, "after_backward", 0, lambda: train(engine, config, range(2, 3)))
        within = [n for n, t in everything(engine).items() if not torch.equal(before[n], t)]
        undone = engine.undo_unfinished()
        return undone, within, [n for n, t in everything(engine).items() if not torch.equal(before[n], t)]


def test_the_center_of_dino_is_put_back(tmp_path: Path) -> None:
    for undone, within, after in run_as_ranks(moved_center, 2, tmp_path, ()):
        assert undone == 0
        assert "center" in within
        assert after == []


def left_out_after_normalization() -> tuple[int | None, list[str]]:
    """What is undone of a step of SwAV that the device leaves out, and the tensors that then differ."""
    config = tiny().model_copy(update={"method": SMALL["swav"]})
    with engine_of(config) as engine:
        train(engine, config, range(2))
        before = everything(engine)
        engine.loss_flag.set()
        train(engine, config, range(2, 3))
        undone = engine.undo_unfinished()
        return undone, [n for n, t in everything(engine).items() if not torch.equal(before[n], t)]


def test_prototypes_are_not_normalized_again_in_a_step_that_is_left_out(tmp_path: Path) -> None:
    assert run_as_ranks(left_out_after_normalization, 2, tmp_path, ()) == [(1, [])] * 2


def test_saved_buffers_of_a_skipped_step_are_put_back() -> None:
    method = SMALL["simclr"].build(build_backbone(BackboneSettings(name="resnet18", width=8), 32), 10)
    method.register_buffer("center", torch.zeros(4))
    method.register_buffer("constant", torch.zeros(4), persistent=False)
    undo = StepUndo(method, BatchStatistics(method, 2), Guard(GuardSettings(), torch.device("cpu")), steps=2)
    for skip, wanted in ((0.0, 1.0), (1.0, 1.0), (0.0, 2.0)):
        undo.begin()
        method.get_buffer("center").add_(1)
        undo.restore(torch.tensor(skip))
        undo.finish()
        assert method.get_buffer("center").tolist() == [wanted] * 4
    assert undo.undo(2)
    assert method.get_buffer("center").tolist() == [1.0] * 4
