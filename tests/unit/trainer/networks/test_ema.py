import math

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from trainer.networks import ema


def test_momentum_goes_from_start_to_one_on_a_cosine() -> None:
    assert ema.momentum_at(0, 100, 0.99) == pytest.approx(0.99)
    assert ema.momentum_at(50, 100, 0.99) == pytest.approx(0.995)
    assert ema.momentum_at(100, 100, 0.99) == 1.0
    assert ema.momentum_at(25, 100, 0.9) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


def test_momentum_may_end_below_one_or_stay_constant() -> None:
    assert [ema.momentum_at(step, 100, 0.99, 0.99) for step in (0, 37, 100)] == [0.99] * 3
    assert ema.momentum_at(50, 100, 0.9, 0.98) == pytest.approx(0.94)
    assert ema.momentum_at(100, 100, 0.9, 0.98) == 0.98


def test_the_copy_follows_parameters_and_keeps_its_own_buffers() -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = ema.frozen_copy(source)
    assert not any(p.requires_grad for p in target.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in source.parameters():
            p.add_(1)
    source[1].running_mean.add_(5)
    ema.lerp(target, source, 0.75)
    for new, old, online in zip(target.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)
    assert (target[1].running_mean == 0).all()


def test_a_frozen_copy_is_cast_once_for_several_calls_and_stays_frozen() -> None:
    target = ema.frozen_copy(nn.Linear(64, 64))
    x = torch.randn(2, 64, dtype=torch.bfloat16)

    def casts(calls: int) -> int:
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        with profile(activities=[ProfilerActivity.CPU]) as profiler, autocast, ema.cast_once(target):
            outputs = [target(x) for _ in range(calls)]
        assert not any(out.requires_grad for out in outputs)
        return sum(event.count for event in profiler.key_averages() if event.key == "aten::_to_copy")

    assert casts(3) == casts(1) == 2  # weight and bias
    assert not any(p.requires_grad for p in target.parameters())
    with pytest.raises(RuntimeError, match="stopped"), ema.cast_once(target):
        raise RuntimeError("stopped")
    assert not any(p.requires_grad for p in target.parameters())


def test_the_encoder_embeds_without_gradient_and_follows_on_the_cosine() -> None:
    backbone, projector = nn.Linear(3, 4), nn.Linear(4, 2)
    encoder = ema.MomentumEncoder(backbone, projector, 0.9)
    views = [torch.randn(5, 3) for _ in range(2)]
    for view, embedding in zip(views, encoder.embed(views), strict=True):
        assert not embedding.requires_grad
        assert torch.equal(embedding, projector(backbone(view)))
    assert not any(p.requires_grad for p in encoder.parameters())
    pairs = [(encoder["backbone"], backbone), (encoder["projector"], projector)]
    before = backbone.weight.detach().clone()
    with torch.no_grad():
        backbone.weight.add_(1)
    ema.update(pairs, step=4, total_steps=12, start=encoder.start)
    tau = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2  # that of the fourth of twelve steps
    torch.testing.assert_close(encoder["backbone"].weight, before + 1 - tau)
    assert torch.equal(encoder["projector"].weight, projector.weight)


@pytest.mark.parametrize("momentum", [0.0, 0.75, 0.996, 1.0])
def test_a_skipped_update_changes_nothing_and_another_one_is_that_of_a_lerp(momentum: float) -> None:
    source, target, by_lerp = nn.Linear(30, 40), nn.Linear(30, 40), nn.Linear(30, 40)
    by_lerp.load_state_dict(target.state_dict())
    before = [p.clone() for p in target.parameters()]
    skip = torch.tensor(1.0)
    own, theirs = list(target.parameters()), list(source.parameters())
    with torch.no_grad():
        ema.lerp_unless(own, theirs, momentum, skip)
        ema.lerp(target, source, momentum, skip)
        assert all(torch.equal(new, old) for new, old in zip(own, before, strict=True))
        ema.lerp_unless(own, theirs, momentum, torch.tensor(0.0))
        ema.lerp(by_lerp, source, momentum, torch.tensor(0.0))
    for new, same in zip(own, by_lerp.parameters(), strict=True):
        torch.testing.assert_close(new, same, rtol=0, atol=1e-7)
