"""The clock of steps and checkpoints against a plain walk through the same run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.plan.step_clock import StepClock


def walk(clock: StepClock, until: float) -> tuple[int, float, int]:
    """Steps finished, time waited for saves, and the last step on the disk, by going through them one by one."""
    now, step, waited, written = 0.0, 0, 0.0, 0
    while now + clock.pace <= until + 1e-6:
        now += clock.pace
        step += 1
        if step % clock.every == 0:
            waited += min(clock.stall, max(0.0, until - now))
            now += clock.stall
            if now + clock.write <= until + 1e-6:
                written = step
    return step, waited, written


@given(st.integers(1, 20), st.integers(0, 12), st.integers(0, 8), st.integers(1, 7), st.floats(0.1, 0.9))
def test_it_agrees_with_a_walk(steps: int, stall: int, write: int, every: int, part: float) -> None:
    clock = StepClock(1.0, every, float(stall), float(min(write, every)))
    until = steps + part
    step, waited, written = walk(clock, until)
    time = np.array([until])
    assert clock.steps(time)[0] == step
    assert clock.stalls(time)[0] == pytest.approx(waited)
    assert clock.saved(time)[0] == written


@given(st.integers(1, 500), st.integers(1, 30), st.floats(0.01, 5), st.floats(0, 9))
def test_at_its_moment_a_step_is_finished_and_just_before_it_is_not(
    step: int, every: int, pace: float, stall: float
) -> None:
    clock = StepClock(pace, every, stall, 0.0)
    moment = clock.moment(np.array([float(step)]))
    assert clock.steps(moment)[0] == step
    assert clock.steps(moment - pace / 100)[0] == step - 1
