"""The rates of one node, each measured within seconds."""

import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError, first_line


class Rate(StrEnum):
    """What is measured. These words are keys of `all4one doctor --json`."""

    MATRIX = "matrix products"
    """Floating-point operations per second of the slowest device."""
    MEMORY = "memory"
    """Bytes per second that a copy reads and writes, of the slowest device."""
    DECODE = "JPEG decode"
    """Images per second on all cores of this process."""
    READ = "read of the set"
    """Bytes per second from the disk of the set."""


PATIENCE_SECONDS = 10.0
"""How long a measurement may take beyond its time, seconds. A disk that hangs would hold up the job."""
UNITS = {
    Rate.MATRIX: (1e9, "GFLOP/s"),
    Rate.MEMORY: (1e9, "GB/s"),
    Rate.DECODE: (1.0, "images/s"),
    Rate.READ: (1e6, "MB/s"),
}
"""How a rate is written: the number that it is divided by, and the unit."""


@dataclass(frozen=True)
class NodeRates:
    """What one node has measured."""

    node: str
    rates: Mapping[str, float] = field(default_factory=dict)
    """By the words of `Rate`."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why a measurement failed, by the words of `Rate`."""

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs."""
        return asdict(self)


def better_rates(one: NodeRates, again: NodeRates) -> NodeRates:
    """Return the better rates of two measurements of a node. What fails in one of them has failed."""
    rates = {
        rate: max(found.rates.get(rate, 0.0) for found in (one, again))
        for rate in {**one.rates, **again.rates}
    }
    return NodeRates(one.node, rates, {**one.failures, **again.failures})


def written(rate: str, value: float) -> str:
    """Return a rate with its unit."""
    divisor, unit = UNITS[Rate(rate)]
    return f"{value / divisor:.4g} {unit}"


def measure_node(data: Path | None, *, seconds: float = 2.0) -> NodeRates:
    """Measure the rates of this node, one after the other. A measurement that fails stops no other one.

    Args:
        data: folder of a set on whose disk files are read. None: no disk is measured.
        seconds: time of each measurement. Preparations take a few seconds more.
    """
    from launch.node_check.compute import matrix_rate, memory_rate
    from launch.node_check.files import read_rate
    from launch.node_check.images import decode_rate

    measurements: dict[Rate, Callable[[], float]] = {
        Rate.MATRIX: lambda: matrix_rate(seconds),
        Rate.MEMORY: lambda: memory_rate(seconds),
        Rate.DECODE: lambda: decode_rate(seconds),
    }
    if data is not None:
        measurements[Rate.READ] = lambda: read_rate(data, seconds)
    rates, failures = dict[str, float](), dict[str, str]()
    for rate, measure in measurements.items():
        found = _within(measure, seconds + PATIENCE_SECONDS)
        if isinstance(found, float):
            rates[rate] = found
        else:
            failures[rate] = found
    return NodeRates(platform.node(), rates, failures)


def _within(measure: Callable[[], float], seconds: float) -> float | str:
    """Return what a measurement returns, or why it failed. One that hangs is left behind in its thread."""
    answers: list[float | str] = []

    def run() -> None:
        try:
            answers.append(measure())
        except UserError as error:
            answers.append(error.what)
        except (RuntimeError, OSError, MemoryError) as error:
            answers.append(first_line(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"no answer within {seconds:.0f} s"
    return answers[0] if answers else "it failed without a message"
