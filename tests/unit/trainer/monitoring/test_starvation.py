import subprocess
import sys

import pytest

from trainer.monitoring import starvation
from trainer.monitoring.starvation import Starvation


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """Times, waits and CPU times that are read one after the other, of a process that may use two cores."""
    found: list[tuple[float, float, float]] = []
    monkeypatch.setattr(Starvation, "_now", lambda self: found.pop(0))
    monkeypatch.setattr(starvation, "cores_per_process", lambda: 2)
    return found


def test_a_starved_minute_is_said_once(states: list[tuple[float, float, float]]) -> None:
    states += [(0, 0, 0), (30, 20, 20), (61, 30, 60), (200, 130, 100)]
    watch = Starvation()
    assert watch.look() is None  # too early
    assert "waits 49% of the time" in str(watch.look())
    assert watch.look() is None


@pytest.mark.parametrize(
    "state", [(100, 10, 100), (100, 60, 190)], ids=["seldom", "its own threads keep the cores busy"]
)
def test_other_minutes_are_not(
    state: tuple[float, float, float], states: list[tuple[float, float, float]]
) -> None:
    states += [(0, 0, 0), state]
    assert Starvation().look() is None


def test_each_minute_counts_alone(states: list[tuple[float, float, float]]) -> None:
    states += [(0, 0, 0), (1000, 10, 900), (1060, 40, 930)]
    watch = Starvation()
    assert watch.look() is None
    assert "50%" in str(watch.look())


def test_a_thread_that_shares_its_core_waits() -> None:
    code = (
        "import os, subprocess, sys, time; core = min(os.sched_getaffinity(0)); os.sched_setaffinity(0, {core})\n"
        "from trainer.monitoring.starvation import Starvation\n"
        "watch = Starvation(); busy = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "before = watch._now(); start = time.monotonic()\n"
        "while time.monotonic() - start < 1: pass\n"
        "after = watch._now(); busy.kill(); print((after[1] - before[1]) / (after[0] - before[0]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.2 < float(done.stdout) <= 1
