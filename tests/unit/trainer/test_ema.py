import math

import pytest
import torch
from torch import nn

from trainer import ema


def test_momentum_goes_from_start_to_one_on_a_cosine() -> None:
    assert ema.momentum_at(0, 100, 0.99) == pytest.approx(0.99)
    assert ema.momentum_at(50, 100, 0.99) == pytest.approx(0.995)
    assert ema.momentum_at(100, 100, 0.99) == 1.0
    assert ema.momentum_at(25, 100, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


def test_the_copy_follows_parameters_and_keeps_its_own_buffers() -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = ema.frozen_copy(source)
    assert not any(p.requires_grad for p in target.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1)
    source[1].running_mean.add_(5)
    ema.update(target, source, 0.75)
    for new, old, online in zip(target.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)
    assert (target[1].running_mean == 0).all()
