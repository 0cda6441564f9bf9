"""Parameters that the optimizer leaves as they are in the first steps, and rows that are normalized after each step."""

from pathlib import Path

import pytest
import torch
from deepspeed_ranks import batches, engine_of, everything, train
from rank_processes import run_as_ranks
from torch import Tensor, nn

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config, load_config
from trainer.engine.optimizers import OptimSettings, build_optimizer, freeze, parameter_groups
from trainer.methods import MethodSettings
from trainer.methods.dino import DINOSettings
from trainer.methods.swav import SwAVSettings

FROZEN = 2
DINO = DINOSettings(
    projector_hidden=32, embedding_dim=16, prototypes=24, freeze_last_layer_steps=FROZEN, learn_scale=True
)
SWAV = SwAVSettings(projector_hidden=32, embedding_dim=16, prototypes=24, freeze_prototypes_steps=FROZEN)


def config_of(method: MethodSettings, *overrides: str) -> Config:
    common = ("backbone.stem=half", "backbone.width=8", "train.global_batch=24", "train.precision=fp32")
    config = load_config("digits_demo", [*common, *overrides])
    return config.model_copy(update={"method": method})


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_frozen_weight_is_updated_later_as_if_its_first_steps_had_not_been(name: str) -> None:
    settings = OptimSettings(name=name, lr=0.1, weight_decay=0.1)
    torch.manual_seed(0)
    frozen, plain = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    plain.load_state_dict(frozen.state_dict())
    late = build_optimizer(
        parameter_groups(frozen.named_parameters(), settings, 256, {"weight": 3}), settings
    )
    usual = build_optimizer(parameter_groups(plain.named_parameters(), settings, 256), settings)
    before = frozen.weight.detach().clone()
    for step in range(6):
        gradient = torch.randn(3, 4)
        freeze(late, step)
        frozen.weight.grad = gradient.clone()
        late.step()
        if step < 3:
            assert torch.equal(frozen.weight, before)
            assert not late.state
        else:
            plain.weight.grad = gradient.clone()
            usual.step()
            assert torch.equal(frozen.weight, plain.weight)
    assert len(late.param_groups) == 1


def runs(method: MethodSettings, overrides: tuple[str, ...]) -> dict[str, list[Tensor]]:
    """The prototypes before and after each of four steps, by ZeRO stage."""
    found = {}
    for stage in (0, 1, 2):
        config = config_of(method, *overrides, f"parallel.zero_stage={stage}")
        with engine_of(config) as engine:
            weights = [engine.method.get_parameter("prototypes.weight").detach().clone()]
            for step in range(4):
                train(engine, config, range(step, step + 1))
                weights.append(engine.method.get_parameter("prototypes.weight").detach().clone())
        found[f"stage {stage}"] = weights
    return found


@pytest.mark.parametrize(("method", "optimizer"), [(DINO, "adamw"), (DINO, "lars"), (SWAV, "sgd")])
def test_prototypes_stay_for_some_steps_at_every_zero_stage(
    tmp_path: Path, method: MethodSettings, optimizer: str
) -> None:
    overrides = (f"optim.name={optimizer}", "optim.lr=0.1", "optim.weight_decay=0.1")
    found = run_as_ranks(runs, 2, tmp_path, (method, overrides))
    for weights in found[0].values():
        for step in range(FROZEN):
            torch.testing.assert_close(weights[step + 1], weights[0], rtol=0, atol=1e-6)
        for step in range(FROZEN, 4):
            assert (weights[step + 1] - weights[step]).abs().max() > 1e-4
        if method is SWAV:
            torch.testing.assert_close(weights[-1].norm(dim=1), torch.ones(24))
        torch.testing.assert_close(weights, found[0]["stage 0"], rtol=0, atol=1e-3)
    assert all(torch.equal(a, b) for s in found[0] for a, b in zip(found[0][s], found[1][s], strict=True))


def resumed(method: MethodSettings) -> list[str]:
    """The tensors that differ between a run and one that goes on from its state within the frozen steps."""
    config = config_of(method, "optim.name=adamw")
    with engine_of(config) as engine:
        train(engine, config, range(1))
        state = [{name: t.clone() for name, t in part.items()} for part in engine.state()]
        train(engine, config, range(1, 5))
        wanted = everything(engine)
    with engine_of(config) as engine:
        engine.load_state(*state)
        train(engine, config, range(1, 5))
        found = everything(engine)
    return [name for name in wanted if not torch.equal(wanted[name], found[name])]


@pytest.mark.parametrize("method", [DINO, SWAV])
def test_a_run_resumes_within_the_frozen_steps(tmp_path: Path, method: MethodSettings) -> None:
    assert run_as_ranks(resumed, 2, tmp_path, (method,)) == [[], []]


def skipped() -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """All tensors before and after a step with images that are not finite, and the number of skipped steps."""
    config = config_of(DINO)
    with engine_of(config) as engine:
        train(engine, config, range(3))
        before = everything(engine)
        broken = [Batch([v * torch.nan for v in b.views], b.labels, b.ids) for b in batches(config, 3)]
        count = float(engine.step(3, broken)["skipped_steps"])
        return before, everything(engine), count


def test_a_skipped_step_does_not_move_the_center(tmp_path: Path) -> None:
    for before, after, count in run_as_ranks(skipped, 2, tmp_path, ()):
        assert count == 1
        assert before["center"].abs().max() > 0
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        # batches of a skipped step count, and the momentum encoder follows the weights
        assert not [n for n in changed if "num_batches" not in n and not n.startswith("momentum.")]
