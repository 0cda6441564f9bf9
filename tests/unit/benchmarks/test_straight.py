"""The straight-line step that ours is measured against computes the same numbers: the comparison is fair."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.contrast.queue import QueueSettings
from trainer.engine.optimizers import OptimSettings, build_optimizer, parameter_groups
from trainer.methods.all4one import All4One, All4OneSettings
from trainer.networks import ema
from trainer.networks.backbones import BackboneSettings, build_backbone

ROOT = Path(__file__).resolve().parents[3]
CLOSE = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("straight")


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("golden")


@pytest.mark.parametrize("name", ["all4one_a", "all4one_b"])
def test_it_is_the_published_step(straight: ModuleType, golden: ModuleType, name: str) -> None:
    path = ROOT / "tests" / "golden" / f"{name}.npz"
    numbers, facts = dict(np.load(path)), json.loads(path.with_suffix(".json").read_text())
    step = straight.StraightAll4One(golden.build(numbers, facts))
    labels = torch.from_numpy(numbers["input/y"])
    views = [torch.from_numpy(numbers[f"input/{x}"]).requires_grad_() for x in ("x1", "x2")]
    losses = step(views, labels, labels)
    losses.loss.backward()
    for published, ours in golden.PUBLISHED_LOSSES.items():
        assert getattr(losses, ours).item() == pytest.approx(facts["losses"][published], abs=1e-6), ours
    parameters = dict(step.named_parameters())
    gradients = {"grad/x1": views[0].grad, "grad/x2": views[1].grad}
    for key in (k for k in numbers if k.startswith("grad/") and k not in gradients):
        parameter = parameters[golden.our_name(key.removeprefix("grad/"))]
        torch.testing.assert_close(parameter.grad, torch.from_numpy(numbers[key]), **CLOSE)
    for view, gradient in gradients.items():
        torch.testing.assert_close(gradient, torch.from_numpy(numbers[view]), **CLOSE)
    torch.testing.assert_close(step.queue_rows, torch.from_numpy(numbers["after/queue"]), **CLOSE)


def method() -> All4One:
    torch.manual_seed(0)
    settings = All4OneSettings(
        projector_hidden=24,
        predictor_hidden=24,
        embedding_dim=16,
        transformer_dropout=0,
        queue=QueueSettings(size=96),
    )
    return settings.build(build_backbone(BackboneSettings(width=8), 16), 3).double()


def batches() -> list[tuple[list[Tensor], Tensor, Tensor]]:
    torch.manual_seed(1)
    return [
        (
            [torch.randn(8, 3, 16, 16, dtype=torch.float64) for _ in range(2)],
            torch.arange(8) % 3,
            torch.arange(8),
        )
        for _ in range(3)
    ]


@pytest.mark.slow
def test_ours_computes_the_same_losses_gradients_and_updates(straight: ModuleType) -> None:
    ours = method()
    theirs = straight.StraightAll4One(ours)
    settings = OptimSettings(lr=8.0, weight_decay=0.1)  # at this batch a rate of 0.25
    optimizer = build_optimizer(parameter_groups(ours.named_parameters(), settings, 8), settings)
    groups = parameter_groups(theirs.named_parameters(), settings, 8)
    straight_optimizer = straight.StraightLARS(groups, settings.momentum, settings.trust_coefficient)
    weights = dict(theirs.named_parameters())
    for number, batch in enumerate(batches()):
        out, losses = ours(*batch), theirs(*batch)
        torch.testing.assert_close(out.loss, losses.loss, **CLOSE)
        for name in ("neighbor", "centroid", "feature", "neighbor_agreement", "z_std"):
            torch.testing.assert_close(out.parts[name].double(), getattr(losses, name).double(), **CLOSE)
        optimizer.zero_grad(), straight_optimizer.zero_grad()
        out.loss.backward(), losses.loss.backward()
        ours.after_backward()
        for name, weight in ours.named_parameters():
            torch.testing.assert_close(weight.grad, weights[name].grad, **CLOSE, msg=name)
        optimizer.step(), straight_optimizer.step()
        ours.after_step(number + 1, 10)
        theirs.update_momentum(ema.momentum_at(number, 10, ours.settings.momentum))
        torch.testing.assert_close(ours.queue.rows, theirs.queue_rows, **CLOSE)
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, weights[name], **CLOSE, msg=name)
