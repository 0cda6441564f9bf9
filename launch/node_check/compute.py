"""How fast the devices of this node multiply matrices and copy memory, and whether they do it right."""

import platform
import time
from collections.abc import Callable

import torch

from data_pipelines.devices import count_gpus
from data_pipelines.errors import UserError

_MATRIX = {"cuda": (8192, torch.bfloat16), "cpu": (1024, torch.float32)}
"""Rows of the matrices and their dtype by device. They are large enough for the full speed of an H100."""
_BYTES = {"cuda": 2**30, "cpu": 2**27}
"""Bytes of a copy by device, several times the last cache."""


def matrix_rate(seconds: float) -> float:
    """Return the floating-point operations per second of the slowest device of this node.

    The devices share the time of `seconds`.

    Raises:
        UserError: a device computes two different products of the same matrices.
        RuntimeError: a device cannot be used.
    """
    devices = _devices()
    return min(_matrix_rate(device, seconds / len(devices)) for device in devices)


def memory_rate(seconds: float) -> float:
    """Return the bytes per second that copies on the slowest device read and write.

    The devices share the time of `seconds`.

    Raises:
        UserError: a copy differs from its source.
        RuntimeError: a device cannot be used.
    """
    devices = _devices()
    return min(_memory_rate(device, seconds / len(devices)) for device in devices)


def _devices() -> list[torch.device]:
    return [torch.device("cuda", index) for index in range(count_gpus())] or [torch.device("cpu")]


def _matrix_rate(device: torch.device, seconds: float) -> float:
    rows, dtype = _MATRIX[device.type]
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(rows, rows, generator=generator, device=device).to(dtype) for _ in range(2)
    )  # [rows, rows]
    first = left @ right
    out = torch.empty_like(first)
    rate = 2.0 * rows**3 / _seconds_each(lambda: torch.matmul(left, right, out=out), device, seconds)
    if not torch.equal(first, out):
        raise _broken(device, "computes two different products of the same matrices")
    return rate


def _memory_rate(device: torch.device, seconds: float) -> float:
    count = _BYTES[device.type] // 8
    source = torch.arange(count, device=device)  # int64: every place holds another value
    copy = torch.zeros_like(source)
    rate = 2.0 * source.nbytes / _seconds_each(lambda: copy.copy_(source), device, seconds)
    if not torch.equal(source, copy):
        raise _broken(device, "copies memory with errors")
    return rate


def _seconds_each(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the time of one call, on average over calls that take about `seconds` together."""
    work()  # the first call chooses an algorithm
    _settle(device)
    began, calls, batch = time.perf_counter(), 0, 1
    while (passed := time.perf_counter() - began) < seconds:
        for _ in range(batch):
            work()
        _settle(device)
        calls += batch
        # A wait for the device after each call would show as a slower device.
        batch = min(2 * batch, 64) if passed < seconds / 4 else batch
    return (time.perf_counter() - began) / calls


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _broken(device: torch.device, what: str) -> UserError:
    name = f"GPU {device.index}" if device.type == "cuda" else "the CPU"
    return UserError(
        f"{name} {what}", where=platform.node(), fix="exclude this node, and tell the administrators"
    )
