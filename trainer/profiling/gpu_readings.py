"""What a GPU tells of itself while training steps run: utilization, clock, power and memory, by NVML.

It needs the package `nvidia-ml-py`. Where that, NVML or a single reading is missing, it is left out.
"""

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INTERVAL_S = 0.1
"""Seconds between two readings. NVML itself averages utilization over up to a second."""


class GpuReadings:
    """Readings of one GPU, taken by a thread while the context of `taking` is open.

    Args:
        device: device of this process. A CPU has no readings.
    """

    def __init__(self, device: "torch.device") -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._read = _reader(device)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Take readings during the block, at least one."""
        if not self._read:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._take, args=(over,), name="NVML", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _take(self, over: threading.Event) -> None:
        while True:
            for name, read in self._read.items():
                if (value := read()) is not None:
                    self._values[name].append(value)
            if over.wait(INTERVAL_S):
                return

    def summary(self) -> dict[str, float]:
        """Return the mean of each reading, and the largest for memory, by name:

        - `utilization`: fraction of the time in which at least one kernel ran,
        - `clock`, `clock_limit`: Hz of the multiprocessors, and the most that the card allows,
        - `power`, `power_limit`: watts, and those at which the card slows down,
        - `memory`, `memory_limit`: bytes in use by all processes, and of the card.
        """
        return {
            name: max(values) if name == "memory" else statistics.fmean(values)
            for name, values in self._values.items()
        }


def mean_of_gpus(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over the ranks of what all of them could read."""
    common = [name for name in summaries[0] if all(name in one for one in summaries)]
    return {name: statistics.fmean(one[name] for one in summaries) for name in common}


def readings_in_words(found: Mapping[str, float]) -> str:
    """Return the readings for people. Empty if there are none."""
    said = []
    if "utilization" in found:
        said.append(f"busy {100 * found['utilization']:.0f} % of the time")
    for name, word, unit, scale in (
        ("clock", "clock", "MHz", 1e6),
        ("power", "power", "W", 1.0),
        ("memory", "memory", "GB", 1e9),
    ):
        if name in found:
            digits = 1 if unit == "GB" else 0
            limit = found.get(f"{name}_limit")
            of = f" of {limit / scale:.{digits}f}" if limit is not None else ""
            said.append(f"{word} {found[name] / scale:.{digits}f}{of} {unit}")
    return ", ".join(said)


def _reader(device: "torch.device") -> dict[str, Callable[[], float | None]]:
    """Return the functions that read the GPU, by name. None of a function: the card does not tell."""
    if device.type != "cuda":
        return {}
    import torch

    try:
        import pynvml as nvml
    except ImportError:
        return {}
    try:
        nvml.nvmlInit()  # never shut down, because other users in this process may need it
        # NVML counts all GPUs of the machine, and this process may see only some of them.
        gpu = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except nvml.NVMLError:
        return {}
    sm, mega, milli = nvml.NVML_CLOCK_SM, 1e6, 1e-3
    plain: dict[str, Callable[[], Any]] = {
        "utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
        "clock": lambda: nvml.nvmlDeviceGetClockInfo(gpu, sm) * mega,
        "clock_limit": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, sm) * mega,
        "power": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) * milli,
        "power_limit": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) * milli,
        "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "memory_limit": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    }

    def careful(read: Callable[[], Any]) -> Callable[[], float | None]:
        def value() -> float | None:
            try:
                return float(read())
            except nvml.NVMLError:
                return None

        return value

    return {name: careful(read) for name, read in plain.items()}
