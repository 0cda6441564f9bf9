import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data_pipelines.errors import UserError
from trainer.optim import (
    LARS,
    OptimSettings,
    Schedule,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
)


def reference_lars(weights, gradients_of_steps, lrs, *, eta, decay, momentum, clip_lr, excluded):
    """The published rule, one tensor and one step at a time."""
    weights, velocities = [w.clone() for w in weights], [None] * len(weights)
    for gradients, lr in zip(gradients_of_steps, lrs, strict=True):
        for i, g in enumerate(gradients):
            if g is None:
                continue
            w = weights[i]
            w_norm, g_norm = w.norm().item(), g.norm().item()
            if not excluded[i] and w_norm > 0 and g_norm > 0:
                r = eta * w_norm / (g_norm + decay * w_norm + 1e-8)
                if clip_lr:
                    r = min(r / lr, 1)
                g = r * (g + decay * w)
            velocities[i] = g if velocities[i] is None else momentum * velocities[i] + g
            weights[i] = w - lr * velocities[i]
    return weights


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    lrs=st.lists(st.floats(1e-4, 3), min_size=1, max_size=4),
    eta=st.sampled_from([1e-3, 0.02, 1.0]),
    decay=st.sampled_from([0.0, 1e-5, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
    clip_lr=st.booleans(),
    double=st.booleans(),
)
def test_lars_is_the_published_rule(shapes, seed, lrs, eta, decay, momentum, clip_lr, double):
    dtype = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        kind = torch.rand((), generator=generator).item()
        return torch.randn(shape, generator=generator, dtype=dtype) * (0.0 if kind < 0.2 else 1.0)

    weights = [draw(shape) for shape in shapes]
    gradients = [
        [draw(s) if torch.rand((), generator=generator) > 0.1 else None for s in shapes] for _ in lrs
    ]
    excluded = [len(shape) <= 1 for shape in shapes]
    expected = reference_lars(
        weights, gradients, lrs, eta=eta, decay=decay, momentum=momentum, clip_lr=clip_lr, excluded=excluded
    )
    parameters = [nn.Parameter(w.clone()) for w in weights]
    groups = [
        {"params": [p for p, out in zip(parameters, excluded, strict=True) if out is flag], "exclude": flag}
        for flag in (False, True)
    ]
    optimizer = LARS(groups, momentum=momentum, weight_decay=decay, eta=eta, clip_lr=clip_lr)
    for step, lr in enumerate(lrs):
        for parameter, gradient in zip(parameters, gradients[step], strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for parameter, wanted in zip(parameters, expected, strict=True):
        tolerance = {"rtol": 1e-12, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(parameter.data, wanted, **tolerance)


def test_lars_leaves_gradients_alone_and_stays_finite_at_lr_0():
    weight, bias = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.zeros(3))
    optimizer = LARS([{"params": [weight]}, {"params": [bias], "exclude": True}])
    weight.grad, bias.grad = torch.ones(3, 3), torch.ones(3)
    for lr in (1.0, 0.0):
        before = weight.detach().clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert torch.equal(weight.grad, torch.ones(3, 3))
        assert torch.equal(bias.grad, torch.ones(3))
        assert torch.equal(weight.detach(), before) is (lr == 0)
        assert bool(weight.isfinite().all())


def test_lars_gives_the_closure_s_loss_and_takes_its_gradient():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert LARS([weight]).step(closure).item() == 4
    assert bool((weight < 1).all())


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.backbone.transformer = nn.Linear(4, 4, bias=False)
        self.momentum_backbone = nn.Linear(2, 2).requires_grad_(False)
        self.transformer_encoder = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 10)


def groups_of(learner, **fields):
    names = {id(p): name for name, p in learner.named_parameters()}
    settings = OptimSettings(**fields)
    return [
        (g["role"], g["exclude"], g["base_lr"], g["weight_decay"], [names[id(p)] for p in g["params"]])
        for g in parameter_groups(learner.named_parameters(), settings, global_batch=1024)
    ]


def test_parameter_groups():
    assert groups_of(Learner()) == [
        ("main", False, 4.0, 1e-5, ["backbone.0.weight", "backbone.transformer.weight"]),
        ("main", True, 4.0, 0.0, ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]),
        ("transformer", False, 0.1, 1e-5, ["transformer_encoder.weight"]),
        ("transformer", True, 0.1, 0.0, ["transformer_encoder.bias"]),
        ("classifier", False, 0.4, 0.0, ["classifier.weight"]),
        ("classifier", True, 0.4, 0.0, ["classifier.bias"]),
    ]


def test_transformer_learning_rate_can_follow_the_batch():
    rates = {role: lr for role, _, lr, *_ in groups_of(Learner(), scale_transformer_lr=True, lr=0.5)}
    assert rates == {"main": 2.0, "transformer": 0.4, "classifier": 0.4}


OPTIMISERS = {"lars": LARS, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_settings_reach_the_optimiser(name):
    settings = OptimSettings(
        name=name, momentum=0.8, betas=(0.7, 0.6), eta=0.5, clip_lr=False, weight_decay=0.2
    )
    optimizer = build_optimizer(parameter_groups(Learner().named_parameters(), settings, 256), settings)
    assert type(optimizer) is OPTIMISERS[name]
    wanted = {"betas": (0.7, 0.6)} if name == "adamw" else {"momentum": 0.8}
    if name == "lars":
        wanted |= {"eta": 0.5, "clip_lr": False}
    for group in optimizer.param_groups:
        assert wanted.items() <= group.items()
        assert group["weight_decay"] == (0.0 if group["exclude"] or group["role"] == "classifier" else 0.2)


def train(learner, optimizer, steps, *, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for parameter in learner.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        optimizer.step()


def learner_and_optimizer(name):
    torch.manual_seed(0)
    learner = Learner()
    settings = OptimSettings(name=name, lr=0.1)
    return learner, build_optimizer(parameter_groups(learner.named_parameters(), settings, 256), settings)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_run_goes_on_bitwise_with_saved_tensors(name, steps_before):
    straight, optimizer = learner_and_optimizer(name)
    train(straight, optimizer, steps_before)
    weights = {k: v.clone() for k, v in straight.state_dict().items()}
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, straight.named_parameters()).items()}
    train(straight, optimizer, 2, start=steps_before)

    resumed, other = learner_and_optimizer(name)
    train(resumed, other, 1, start=99)
    resumed.load_state_dict(weights)
    load_optimizer_tensors(other, resumed.named_parameters(), saved)
    again = optimizer_tensors(other, resumed.named_parameters())
    assert again.keys() == saved.keys()
    assert all(torch.equal(again[k], saved[k]) and again[k].dtype == saved[k].dtype for k in saved)
    train(resumed, other, 2, start=steps_before)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_names_of_the_state():
    for name, kinds in {"lars": ["momentum"], "adamw": ["exp_avg", "exp_avg_sq", "step"]}.items():
        learner, optimizer = learner_and_optimizer(name)
        train(learner, optimizer, 1)
        tensors = optimizer_tensors(optimizer, learner.named_parameters())
        trained = {n: p.shape for n, p in learner.named_parameters() if p.requires_grad}
        assert tensors.keys() == {f"{kind}/{n}" for kind in kinds for n in trained}
        assert all(tensors[f"{kinds[0]}/{n}"].shape == shape for n, shape in trained.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("momentum/classifier.bias"), "lacks momentum/classifier.bias"),
        (lambda t: t.update({"momentum/nobody": torch.zeros(1)}), "has momentum/nobody"),
        (
            lambda t: t.update({"momentum/classifier.bias": torch.zeros(3)}),
            r"\[3\], the parameter needs .* \[10\]",
        ),
        (lambda t: t.update({"momentum/classifier.bias": torch.zeros(10).double()}), "float64"),
        (lambda t: t.clear(), "and 6 more"),
    ],
)
def test_state_of_another_model_is_refused_and_nothing_is_changed(change, message):
    learner, optimizer = learner_and_optimizer("lars")
    train(learner, optimizer, 1)
    before = {k: v.clone() for k, v in optimizer_tensors(optimizer, learner.named_parameters()).items()}
    tensors = dict(before)
    change(tensors)
    with pytest.raises(UserError, match=message):
        load_optimizer_tensors(optimizer, learner.named_parameters(), tensors)
    after = optimizer_tensors(optimizer, learner.named_parameters())
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_loaded_state_does_not_alias_what_it_came_from():
    learner, optimizer = learner_and_optimizer("lars")
    train(learner, optimizer, 1)
    tensors = {k: v.clone() for k, v in optimizer_tensors(optimizer, learner.named_parameters()).items()}
    kept = {k: v.clone() for k, v in tensors.items()}
    load_optimizer_tensors(optimizer, learner.named_parameters(), tensors)
    train(learner, optimizer, 1)
    assert all(torch.equal(tensors[k], kept[k]) for k in kept)


@given(
    warmup=st.integers(0, 50), rest=st.integers(1, 200), start=st.floats(0, 1e-2), base=st.floats(1e-6, 10.0)
)
def test_schedule_rises_then_falls_between_its_ends(warmup, rest, start, base):
    schedule = Schedule(start, warmup, warmup + rest)
    rates = [schedule.lr(base, step) for step in range(warmup + rest + 3)]
    assert rates[warmup] == pytest.approx(base)
    assert rates[0] == pytest.approx(min(start, base) if warmup else base)
    assert rates[warmup + rest :] == [0, 0, 0]
    slack = 1e-9 * base
    assert all(a <= b + slack for a, b in pairwise(rates[: warmup + 1]))
    assert all(a >= b - slack for a, b in pairwise(rates[warmup:]))


def test_schedule_in_numbers():
    schedule = Schedule.from_settings(OptimSettings(), steps_per_epoch=195, total_steps=195_000)
    assert schedule.warmup_steps == 1950
    assert schedule.lr(1.0, 0) == 3e-5
    assert schedule.lr(1.0, 975) == pytest.approx((1 + 3e-5) / 2)
    assert schedule.lr(1.0, 1950 + (195_000 - 1950) // 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def test_schedule_sets_every_group_from_its_own_base():
    _, optimizer = learner_and_optimizer("sgd")
    Schedule(0.0, 10, 100).apply(optimizer, 5)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"main": 0.05, "transformer": 0.05, "classifier": 0.05})


def test_warm_up_as_long_as_the_run_is_allowed_and_longer_is_refused():
    settings = OptimSettings(warmup_epochs=2)
    assert Schedule.from_settings(settings, 10, 20).lr(1.0, 19) == pytest.approx(0.95, abs=1e-4)
    with pytest.raises(UserError, match=r"warm-up of 2 epochs exceeds the run of 1.9 epochs"):
        Schedule.from_settings(settings, 10, 19)
