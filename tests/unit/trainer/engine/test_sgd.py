import math

import pytest
import torch
from torch import nn

from trainer.engine.lars import LARS
from trainer.engine.sgd import SGD

SHAPES = ((7, 5), (5,), (3, 2, 2))


def weights(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def test_sgd_is_torchs() -> None:
    ours, theirs = weights(), weights()
    rule, reference = (
        kind(p, lr=0.3, momentum=0.8, weight_decay=0.1)
        for kind, p in ((SGD, ours), (torch.optim.SGD, theirs))
    )
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        rule.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [SGD, LARS, torch.optim.AdamW])
@pytest.mark.parametrize("left_out", [0, 2])
def test_a_step_that_is_left_out_leaves_no_trace(kind: type, left_out: int) -> None:
    disturbed, calm = weights(), weights()
    options = {"fused": True} if kind is torch.optim.AdamW else {}
    rules = [kind(p, lr=0.3, weight_decay=0.1, **options) for p in (disturbed, calm)]
    for step in range(4):
        for parameters, rule in zip((disturbed, calm), rules, strict=True):
            set_gradients(parameters, step)
            rule.found_inf = torch.tensor(0.0)
            if parameters is disturbed and step == left_out:
                broken = [p.grad.clone() for p in parameters]
                for p in parameters:
                    p.grad.fill_(math.nan)
                rule.found_inf = torch.tensor(1.0)
                rule.step()
                for p, gradient in zip(parameters, broken, strict=True):
                    p.grad.copy_(gradient)
                rule.found_inf = torch.tensor(0.0)
            rule.step()
    for a, b in zip(disturbed, calm, strict=True):
        assert torch.equal(a, b)
        for name, value in rules[1].state[b].items():
            assert torch.equal(rules[0].state[a][name], value), name
