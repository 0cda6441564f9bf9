import pytest

from data_pipelines.cores import MOST_CORES, usable_cores
from data_pipelines.errors import UserError
from launch.local import machine_parts as module
from launch.local.machine_parts import machine_parts


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with some cores and GPUs."""

    def make(cores: int, gpus: int, visible: str | None = None) -> None:
        monkeypatch.setattr(module, "usable_cores", lambda: cores)
        monkeypatch.setattr(module, "count_gpus", lambda: gpus)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


def test_without_gpus_each_run_gets_a_number_of_cores(machine) -> None:
    machine(9, 0)
    assert machine_parts(4, 3) == [{MOST_CORES: "2"}] * 4
    assert machine_parts(10, 1) == [{MOST_CORES: "1"}] * 10  # they share cores


@pytest.mark.parametrize(
    ("visible", "devices"),
    [(None, ["0,1", "2,3", "4,5"]), ("3,7,GPU-a,1,0,2,5", ["3,7", "GPU-a,1", "0,2"])],
)
def test_each_run_gets_its_own_gpus(machine, visible: str | None, devices: list[str]) -> None:
    machine(32, 7, visible)
    parts = machine_parts(3, 2)
    assert [part["CUDA_VISIBLE_DEVICES"] for part in parts] == devices
    assert {part[MOST_CORES] for part in parts} == {"10"}


@pytest.mark.parametrize(
    ("cores", "gpus", "count", "nproc", "fix"),
    [
        (64, 7, 4, 2, "use --parallel 3 or less"),
        (64, 3, 2, 4, "use --nproc 3 or less"),
    ],
)
def test_too_many_runs_for_a_machine_are_refused(machine, cores, gpus, count, nproc, fix) -> None:
    machine(cores, gpus)
    with pytest.raises(UserError, match="this machine has") as caught:
        machine_parts(count, nproc)
    assert caught.value.fix == fix


def test_a_process_uses_no_more_cores_than_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOST_CORES, "1")
    assert usable_cores() == 1
    monkeypatch.setenv(MOST_CORES, "100000")
    assert usable_cores() < 100000
