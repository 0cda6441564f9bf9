"""The model of a step on many GPUs, against sums done by hand."""

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scaling")


def message(
    kind: str, operation: str, size: int, times: float, *, background: bool = False
) -> dict[str, Any]:
    return {"kind": kind, "operation": operation, "bytes": size, "times": times, "in_background": background}


def profile(*messages: dict[str, Any]) -> dict[str, Any]:
    """Two ranks with 32 rows each, half of whose step is the backward pass."""
    return {
        "world_size": 2,
        "global_batch": 64,
        "without_messages": 1.0,
        "step": 1.25,
        "flops": 1e12,
        "jitter": 0.0,
        "parts": {"backward": 0.5, "data wait": 0.25},
        "messages": list(messages),
    }


def network(scaling: ModuleType) -> Any:
    return scaling.Network(4, 1.0, 100.0, 10.0, 20.0)


def test_a_collective_takes_both_levels(scaling: ModuleType) -> None:
    net = network(scaling)
    # 4 ranks of one machine: 2 doublings, 3/4 of the bytes each way
    assert net.seconds("all_reduce", 800, 4) == pytest.approx(2 * 2 * 1.0 + 2 * 3 / 4 * 800 / 100)
    # 16 ranks on 4 machines: each sends a quarter of the bytes between them
    inside, between = 2 * 3 / 4 * 800 / 100, 2 * 3 / 4 * 200 / 20
    assert net.seconds("all_reduce", 800, 16) == pytest.approx(2 * (2 * 1.0 + 2 * 10.0) + inside + between)
    # 12 foreign rows come over 4 links, and each goes on to the 3 others
    assert net.seconds("all_gather_single", 8, 16) == pytest.approx(22 + 3 * 8 / 20 + 3 * 4 * 8 / 100)
    assert net.seconds("all_reduce", 800, 1) == 0


def test_messages_in_the_background_cost_what_outlasts_the_backward_pass(scaling: ModuleType) -> None:
    free = scaling.Network(8, 0.0, 1e4, 0.0, 1e4)
    step = scaling.Step.of(profile(message("gradients", "all_reduce", 400, 5, background=True)), embedding=1)
    assert step.backward == pytest.approx(0.5)
    # 5 buckets of 40 ms each on 2 ranks: all but the last hide
    assert scaling.predict(step, free, 2)["gradients"] == pytest.approx(0.04)
    slow = scaling.Network(8, 0.0, 1e3, 0.0, 1e3)
    assert scaling.predict(step, slow, 2)["gradients"] == pytest.approx(2.0 - 0.5)
    assert scaling.predict(step, slow, 2, half=True)["gradients"] == pytest.approx(1.0 - 0.5)


def test_sizes_follow_the_batch_and_the_number_of_ranks(scaling: ModuleType) -> None:
    free = scaling.Network(2**20, 0.0, 1000.0, 0.0, 1.0)
    sent = (
        message("predictions", "all_gather_single", 10, 1),
        message("predictions", "all_reduce", 20, 1),
        message("batch norm", "all_reduce", 100, 1),
    )
    one, two = (scaling.Step.of(profile(*sent), embedding=1, rows=rows) for rows in (32, 64))
    gathered = 3 * 10 / 1000  # of 4 ranks
    summed = 2 * 3 / 4 * 40 / 1000  # gradients of 4 ranks' rows, twice those of the profile's 2
    assert scaling.predict(one, free, 4)["predictions"] == pytest.approx(gathered + summed)
    assert scaling.predict(two, free, 4)["predictions"] == pytest.approx(2 * (gathered + summed))
    statistics = 2 * 3 / 4 * 100 / 1000
    for step in (one, two):
        assert scaling.predict(step, free, 4)["batch norm"] == pytest.approx(statistics)
    assert scaling.predict(one, free, 4, group=2)["batch norm"] == pytest.approx(100 / 1000)
    late = scaling.Network(2**20, 1.0, 1000.0, 0.0, 1.0)
    assert scaling.predict(one, late, 4)["batch norm"] == pytest.approx(statistics + 2 * 2 * 1.0)


def test_logits_grow_with_the_ranks_and_with_the_square_of_the_rows(scaling: ModuleType) -> None:
    free = scaling.Network(8, 0.0, 1.0, 0.0, 1.0)
    more = {
        rows: scaling.predict(scaling.Step.of(profile(), embedding=16, rows=rows), free, 10)["contrast"]
        for rows in (32, 64)
    }
    assert more[32] == pytest.approx(4 * 3 * 2 * 32 * (8 * 32) * 16 / 1e12)
    assert more[64] == pytest.approx(4 * more[32])


def test_a_named_speed_replaces_the_profiles_time(scaling: ModuleType) -> None:
    step = scaling.Step.of(profile(), embedding=1, rows=64, speed=4e12)
    assert step.compute == pytest.approx(0.5)
    assert step.backward == pytest.approx(0.25)
    assert scaling.efficiency(step, {"compute": 0.5, "gradients": 0.5}) == 0.5


def test_ranks_wait_for_the_slowest_of_them(scaling: ModuleType) -> None:
    drawn = np.random.default_rng(0).standard_normal((20000, 64)).max(1).mean()
    assert scaling.slowest_of(64) == pytest.approx(drawn, rel=0.01)
    free = scaling.Network(8, 0.0, 1e12, 0.0, 1e12)
    sent = message("batch norm", "all_reduce", 4, 8)
    step = scaling.Step.of(profile(sent), embedding=1, jitter=0.1)
    # 9 stretches, each with a third of the step's deviation
    assert scaling.predict(step, free, 64)["waiting"] == pytest.approx(9 * 0.1 / 3 * scaling.slowest_of(64))
    # nobody waits for a message that is not sent
    assert scaling.predict(step, free, 64, group=1)["waiting"] == pytest.approx(0.1 * scaling.slowest_of(64))
    assert scaling.predict(step, free, 1) == {"compute": 1.0, "contrast": 0.0}
    assert math.isclose(step.jitter, 0.1)


def test_groups_wait_for_each_other_where_all_meet(scaling: ModuleType) -> None:
    """Against a simulation: 8 stretches after each of which groups of 4 meet, and one after which all do."""
    free = scaling.Network(8, 0.0, 1e12, 0.0, 1e12)
    step = scaling.Step.of(profile(message("batch norm", "all_reduce", 4, 8)), embedding=1, jitter=0.1)
    draws = np.random.default_rng(1)
    clock = np.zeros((4000, 16, 4))
    for _ in range(8):
        clock = clock + draws.standard_normal(clock.shape) * 0.1 / 3
        clock = np.repeat(clock.max(2, keepdims=True), 4, axis=2)
    clock = clock + draws.standard_normal(clock.shape) * 0.1 / 3
    simulated = clock.max((1, 2)).mean()
    assert scaling.predict(step, free, 64, group=4)["waiting"] == pytest.approx(simulated, rel=0.15)
