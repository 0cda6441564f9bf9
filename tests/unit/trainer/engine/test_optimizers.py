import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learner import Learner

from data_pipelines.errors import UserError
from trainer.engine.lars import LARS
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import OptimSettings, build_optimizer, parameter_groups
from trainer.engine.sgd import SGD


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


OPTIMIZERS = {"lars": LARS, "adamw": torch.optim.AdamW, "sgd": SGD}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_reach_the_optimizer(name):
    settings = OptimSettings(
        name=name, momentum=0.8, betas=(0.7, 0.6), trust_coefficient=0.5, clip_lr=False, weight_decay=0.2
    )
    optimizer = build_optimizer(parameter_groups(Learner().named_parameters(), settings, 256), settings)
    assert type(optimizer) is OPTIMIZERS[name]
    wanted = {"betas": (0.7, 0.6)} if name == "adamw" else {"momentum": 0.8}
    if name == "lars":
        wanted |= {"trust_coefficient": 0.5, "clip_lr": False}
    for group in optimizer.param_groups:
        assert wanted.items() <= group.items()
        assert group["weight_decay"] == (0.0 if group["exclude"] or group["role"] == "classifier" else 0.2)


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
    schedule = Schedule.from_settings(OptimSettings(), steps_per_epoch=195, epochs=1000)
    assert schedule.warmup_steps == 1950
    assert schedule.lr(1.0, 0) == 3e-5
    assert schedule.lr(1.0, 975) == pytest.approx((1 + 3e-5) / 2)
    assert schedule.lr(1.0, 1950 + (195_000 - 1950) // 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def test_the_peak_may_come_with_the_last_step_of_the_warm_up():
    settings = OptimSettings(warmup_epochs=2, peak_lr_at="end_of_warmup", warmup_start_lr=0)
    schedule = Schedule.from_settings(settings, steps_per_epoch=5, epochs=4)
    assert [schedule.lr(9.0, step) for step in range(11)] == [*range(10), 9.0]
    later = Schedule.from_settings(settings.model_copy(update={"peak_lr_at": "after_warmup"}), 5, 4)
    assert [schedule.lr(9.0, step) for step in range(10, 20)] == [
        later.lr(9.0, step) for step in range(10, 20)
    ]
    one = Schedule(1e-3, 1, 10, peaks_in_warmup=True)
    assert [one.lr(1.0, step) for step in range(2)] == [1e-3, 1.0]


def test_schedule_sets_every_group_from_its_own_base():
    settings = OptimSettings(name="sgd", lr=0.1)
    optimizer = build_optimizer(parameter_groups(Learner().named_parameters(), settings, 256), settings)
    Schedule(0.0, 10, 100).apply(optimizer, 5)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"main": 0.05, "transformer": 0.05, "classifier": 0.05})


def test_warm_up_as_long_as_the_run_is_allowed_and_longer_is_refused():
    settings = OptimSettings(warmup_epochs=2)
    assert Schedule.from_settings(settings, 10, 2).lr(1.0, 19) == pytest.approx(0.95, abs=1e-4)
    with pytest.raises(UserError, match=r"warm-up of 2 epochs exceeds the run of 1 epochs"):
        Schedule.from_settings(settings, 10, 1)


def test_a_run_that_max_steps_ends_in_its_warm_up_needs_no_second_setting():
    cut, whole = (Schedule.from_settings(OptimSettings(warmup_epochs=2), 10, 100, steps) for steps in (3, 0))
    assert [cut.lr(1.0, step) for step in range(3)] == [whole.lr(1.0, step) for step in range(3)]
    assert cut.total_steps == 3
