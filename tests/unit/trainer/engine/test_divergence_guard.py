import math

import pytest
import torch

from trainer.engine.divergence_guard import SETTLED, Guard, GuardSettings

CPU = torch.device("cpu")


def checked(guard: Guard, *norms: float) -> list[bool]:
    return [bool(guard.check(torch.tensor(norm))) for norm in norms]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_left_out_from_the_first_step_on(norm: float) -> None:
    guard = Guard(GuardSettings(), CPU)
    assert checked(guard, norm, 1.0, norm, norm) == [True, False, True, True]
    assert guard.state_dict() == {"usual_norm": 1.0, "good": 1, "skipped": 3, "in_a_row": 2}
    assert guard.skipped == 3


def test_a_spike_is_left_out_once_the_usual_norm_is_known() -> None:
    guard = Guard(GuardSettings(spike_factor=10), CPU)
    assert checked(guard, 50.0, *[1.0] * (SETTLED - 2), 14.0) == [False] * SETTLED
    usual = guard.state_dict()["usual_norm"]
    assert usual == pytest.approx((50 + SETTLED - 2 + 14) / SETTLED)
    assert checked(guard, 10.1 * usual, 9.9 * usual) == [True, False]


def test_a_spike_does_not_move_what_is_usual_and_no_factor_means_no_spikes() -> None:
    guard, never = Guard(GuardSettings(), CPU), Guard(GuardSettings(spike_factor=0), CPU)
    for g in (guard, never):
        checked(g, *[1.0] * SETTLED)
    assert checked(guard, 1e6, 1e6) == [True, True]
    assert guard.state_dict()["usual_norm"] == 1
    assert checked(never, 1e6) == [False]


def test_the_host_knows_of_a_verdict_one_step_later() -> None:
    guard = Guard(GuardSettings(), CPU)
    known = []
    for norm in (1.0, math.nan, math.nan, 1.0, 1.0):
        guard.check(torch.tensor(norm))
        known.append(guard.in_a_row)
    assert known == [0, 0, 1, 2, 0]


def test_a_guard_goes_on_from_its_state_as_one_that_never_stopped() -> None:
    whole, first = Guard(GuardSettings(spike_factor=3), CPU), Guard(GuardSettings(spike_factor=3), CPU)
    norms = torch.rand(3 * SETTLED, generator=torch.Generator().manual_seed(0)).tolist()
    norms[SETTLED + 5] = math.nan
    norms[2 * SETTLED] = 40.0
    split = SETTLED + 6
    checked(first, *norms[:split])
    second = Guard(GuardSettings(spike_factor=3), CPU)
    second.load_state_dict(first.state_dict())
    assert checked(whole, *norms)[split:] == checked(second, *norms[split:])
    assert second.state_dict() == whole.state_dict()
    assert second.skipped == 2
