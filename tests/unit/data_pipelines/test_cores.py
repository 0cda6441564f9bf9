import os
import threading
from pathlib import Path

import pytest

from data_pipelines import cores


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Cgroups of both versions: quotas at the process's own group and above it."""
    two = tmp_path / "sys" / "system.slice" / "job"
    two.mkdir(parents=True)
    (two / "cpu.max").write_text("max 100000\n")
    (two.parent / "cpu.max").write_text("150000 100000\n")
    one = tmp_path / "sys" / "cpu,cpuacct" / "docker"
    one.mkdir(parents=True)
    (one / "cpu.cfs_quota_us").write_text("300000\n")
    (one / "cpu.cfs_period_us").write_text("100000\n")
    return tmp_path


@pytest.mark.parametrize(
    ("groups", "quotas"),
    [
        ("0::/system.slice/job\n", [1.5]),
        ("4:cpu,cpuacct:/docker\n3:memory:/docker\n", [3.0]),
        ("4:cpu,cpuacct:/docker\n0::/system.slice/job\n", [3.0, 1.5]),
        ("0::/\n", []),
        ("0::/gone\n", []),
    ],
)
def test_quotas_of_cgroups_count(system: Path, groups: str, quotas: list[float]) -> None:
    (system / "cgroup").write_text(groups)
    assert cores._quotas(system / "cgroup", system / "sys") == quotas


def test_a_system_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cores._quotas(tmp_path / "cgroup", tmp_path) == []


@pytest.mark.parametrize(
    ("quotas", "allowed", "usable"), [([], 4, 4), ([2.5], 4, 2), ([8.0], 4, 4), ([0.5], 4, 1)]
)
def test_the_smallest_limit_counts(
    quotas: list[float], allowed: int, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_quotas", lambda *_: quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    assert cores.usable_cores() == usable


@pytest.mark.parametrize(
    ("looks", "own"),
    [
        ([[0.99, 0.98]], 2),
        ([[0.99, 0.5], [0.4, 0.97], [0.9, 0.6]], 1),
        ([[0.99, 0.5], [0.9, 0.97]], 2),  # a short disturbance
        ([[0.3, 0.5], [0.4, 0.4], [0.4, 0.6]], 1),  # never none
    ],
)
def test_cores_that_are_shared_do_not_count(
    looks: list[list[float]], own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter(looks)
    monkeypatch.setattr(cores, "_shares", lambda threads: next(seen))
    assert cores.own_cores(2) == own
    assert next(seen, None) is None


def test_threads_on_one_core_see_that_they_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    seen: list[list[float]] = []

    def on_one_core() -> None:
        os.sched_setaffinity(0, {min(before)})  # of this thread and those that it starts
        seen.append(cores._shares(3))

    thread = threading.Thread(target=on_one_core)
    thread.start()
    thread.join()
    assert len(seen[0]) == 3
    assert sum(share >= cores.OWN_SHARE for share in seen[0]) <= 1
    assert sum(seen[0]) < 1.5
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("groups", "before", "after"),
    [
        ("0::/system.slice/job\n", "throttled_usec 500000", "throttled_usec 2000000"),
        ("4:cpu,cpuacct:/docker\n", "throttled_time 500000000", "throttled_time 2000000000"),
    ],
)
def test_throttled_time_is_that_since_the_last_call(
    system: Path, groups: str, before: str, after: str
) -> None:
    (system / "cgroup").write_text(groups)
    place = groups.strip().rpartition(":")[2].strip("/")
    folder = next(f for f in (system / "sys" / place, system / "sys" / "cpu,cpuacct" / place) if f.is_dir())
    (folder / "cpu.stat").write_text(f"nr_periods 7\n{before}\n")
    throttling = cores.Throttling(system / "cgroup", system / "sys")
    assert throttling.seconds() == 0
    (folder / "cpu.stat").write_text(f"nr_periods 9\n{after}\n")
    assert throttling.seconds() == 1.5
    assert throttling.seconds() == 0


def test_the_throttled_time_of_a_group_before_this_process_came_does_not_count(system: Path) -> None:
    (system / "cgroup").write_text("0::/\n")
    throttling = cores.Throttling(system / "cgroup", system / "sys")
    (system / "sys" / "system.slice" / "job" / "cpu.stat").write_text("throttled_usec 9000000\n")
    (system / "cgroup").write_text("0::/system.slice/job\n")
    assert throttling.seconds() == 0
