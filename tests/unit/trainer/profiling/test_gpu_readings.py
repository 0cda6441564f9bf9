"""Readings of a GPU from a stand-in for NVML's Python package, which has the functions that are called of the real
one."""

import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.profiling.gpu_readings import GpuReadings, mean_of_gpus, readings_in_words

CUDA = torch.device("cuda", 0)
EXPECTED = {
    "utilization": 0.9,
    "clock": 1.755e9,
    "clock_limit": 1.98e9,
    "power": 640.0,
    "power_limit": 700.0,
    "memory": 71.2e9,
    "memory_limit": 85.0e9,
}


class NVMLError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("pynvml")
    module.NVMLError, module.NVML_CLOCK_SM = NVMLError, 1
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = {"GPU-12345678-9abc": "handle"}.__getitem__
    module.nvmlDeviceGetUtilizationRates = {"handle": SimpleNamespace(gpu=90, memory=40)}.__getitem__
    module.nvmlDeviceGetClockInfo = lambda gpu, kind: {("handle", 1): 1755}[gpu, kind]
    module.nvmlDeviceGetMaxClockInfo = lambda gpu, kind: {("handle", 1): 1980}[gpu, kind]
    module.nvmlDeviceGetPowerUsage = {"handle": 640_000}.__getitem__
    module.nvmlDeviceGetEnforcedPowerLimit = {"handle": 700_000}.__getitem__
    module.nvmlDeviceGetMemoryInfo = {
        "handle": SimpleNamespace(used=71_200_000_000, total=85_000_000_000)
    }.__getitem__
    monkeypatch.setitem(sys.modules, "pynvml", module)
    properties = SimpleNamespace(uuid="12345678-9abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return module


def readings(device: torch.device = CUDA) -> dict[str, float]:
    found = GpuReadings(device)
    with found.taking():
        pass
    return found.summary()


def test_readings_of_this_process_s_gpu_have_their_units(nvml: Any) -> None:
    assert readings() == pytest.approx(EXPECTED)


def test_means_are_taken_and_the_largest_memory(nvml: Any) -> None:
    used = iter((10, 30, 20))
    power = iter((100_000, 200_000, 300_000))
    nvml.nvmlDeviceGetPowerUsage = lambda gpu: next(power)
    found = GpuReadings(CUDA)
    nvml.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(used=next(used), total=99)
    found._read.pop("memory_limit")
    for _ in range(3):
        with found.taking():
            pass
    assert found.summary()["power"] == pytest.approx(200)
    assert found.summary()["memory"] == 30


def test_a_reading_that_a_card_refuses_is_left_out(nvml: Any) -> None:
    def refuse(*_: object) -> None:
        raise NVMLError

    nvml.nvmlDeviceGetPowerUsage = nvml.nvmlDeviceGetUtilizationRates = refuse
    assert readings().keys() == EXPECTED.keys() - {"power", "utilization"}


def test_without_nvml_the_package_or_a_gpu_there_are_none(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readings(torch.device("cpu")) == {}

    def no_driver() -> None:
        raise NVMLError

    nvml.nvmlInit = no_driver
    assert readings() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert readings() == {}


def test_readings_stop_with_the_block_even_if_it_fails(nvml: Any) -> None:
    found = GpuReadings(CUDA)
    with pytest.raises(KeyError), found.taking():
        raise KeyError
    assert "NVML" not in {thread.name for thread in threading.enumerate()}


def test_ranks_are_averaged_over_what_all_could_read() -> None:
    assert mean_of_gpus([{"clock": 1.0, "power": 5.0}, {"clock": 3.0}]) == {"clock": 2.0}
    assert mean_of_gpus([{}, {"clock": 3.0}]) == {}


def test_words_name_what_there_is() -> None:
    assert readings_in_words(EXPECTED) == (
        "busy 90 % of the time, clock 1755 of 1980 MHz, power 640 of 700 W, memory 71.2 of 85.0 GB"
    )
    assert readings_in_words({"power": 99.6}) == "power 100 W"
    assert readings_in_words({}) == ""
