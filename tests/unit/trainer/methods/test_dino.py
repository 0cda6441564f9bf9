"""DINO against its paper's equations in float64, on one process and on two; its temperature, and its center."""

import pytest
import torch
from multi_crop import ROWS, build, computed, features, result, tensors, views
from straight_formulas import Result, Tensors, assert_same, linear, unit
from torch import Tensor

from trainer.methods import Method
from trainer.methods.dino import DINOSettings

PROTOTYPES = 12
STEP, TOTAL = 3, 100


def make(learn_scale: bool) -> Method:
    """The method in the warm-up, with a teacher and a center that have moved."""
    settings = DINOSettings(
        projector_hidden=16, embedding_dim=8, prototypes=PROTOTYPES, learn_scale=learn_scale
    )
    method = build(settings)
    method.step, method.total_steps = STEP, TOTAL
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        method.get_buffer("center").normal_()
    return method


def head(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    """GELU is x Φ(x); the last layer has rows of norm 1 or of a learned norm."""
    for layer in (0, 2):
        x = linear(p, f"{copy}projector.{layer}", x)
        x = x * (1 + torch.erf(x / 2**0.5)) / 2
    rows = unit(p[f"{copy}prototypes.weight"])
    if f"{copy}prototypes.scale" in p:
        rows = rows * p[f"{copy}prototypes.scale"]
    return unit(linear(p, f"{copy}projector.4", x)) @ rows.T


def expected(learn_scale: bool) -> tuple[Result, Tensor]:
    p, learn = tensors(make(learn_scale))
    temperature = 0.04 + (0.07 - 0.04) * STEP / 10  # the warm-up takes a tenth of 100 steps
    teacher = [head(p, features(p, x, "momentum."), "momentum.") for x in views()[:2]]
    student = [head(p, features(p, x)) for x in views()]
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for target, out in enumerate(teacher):
        for view in range(len(student)):
            if view == target:
                continue
            pairs += 1
            for row in range(ROWS):
                t = ((out[row] - p["center"]) / temperature).exp()
                s = (student[view][row] / 0.1).exp()
                total = total - (t / t.sum() * (s / s.sum()).log()).sum() / ROWS
    center = 0.9 * p["center"] + 0.1 * torch.cat(teacher).mean(0)
    return result(total / pairs, p, learn), center


def on_this_rank(learn_scale: bool) -> tuple[Result, Tensor]:
    method = make(learn_scale)
    return computed(method), method.get_buffer("center").clone()


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_gradients_and_center_are_those_of_the_whole_batch(
    run_ranks, ranks: int, learn_scale: bool
) -> None:
    wanted, center = expected(learn_scale)
    found = run_ranks(on_this_rank, ranks, learn_scale)
    for values, own_center in found:
        assert_same(values, wanted)
        torch.testing.assert_close(own_center, center, rtol=0, atol=1e-12)
        assert torch.equal(own_center, found[0][1])


def test_the_teacher_s_temperature_rises_over_the_warm_up_and_stays() -> None:
    settings = DINOSettings(teacher_warmup=0.25)
    found = [settings.teacher_temperature_at(step, 40) for step in (0, 5, 10, 11, 40)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])
    assert DINOSettings(teacher_warmup=0).teacher_temperature_at(0, 40) == 0.07
