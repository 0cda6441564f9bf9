"""What a dry run saw of one step, as plain values."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EXPECTED_WAITS = {
    "trainer.distributed.host_reading:HostReading.values": "It reads a value of the step before, which the device has "
    "finished when the host begins the next one.",
    "trainer.checkpoints.host_copies:_Half.empty": "A checkpoint copies through a small buffer. Training changes the "
    "tensors only after they have arrived.",
}
"""Places at which the host may wait, and why."""


class Kernel(NamedTuple):
    """An operation on the device."""

    part: str
    """Part of the step (`trainer.profiling.instruments.PARTS`)."""
    kind: str
    """`convolution`, `batch norm`, `layer norm`, `matrix product` or `other`."""
    precision: str
    """Type in which it multiplies: `bf16`, `tf32`, `fp32` or `fp64`."""
    flops: int
    """Floating-point operations of a convolution or matrix product."""
    bytes: int
    """Bytes of device memory that it reads and writes."""
    launches: int
    """Kernels that it launches."""


class HostWait(NamedTuple):
    """A place at which the host waits for the device."""

    kind: str
    operation: str
    where: str


class DeviceMix(NamedTuple):
    """An operation on tensors of the host and of the device at once."""

    operation: str
    where: str


class BusCopy(NamedTuple):
    """A copy between host and device."""

    direction: str
    """`host to device` or `device to host`."""
    bytes: int
    where: str


class SentMessage(NamedTuple):
    """A collective."""

    kind: str
    """Content of the message, as in `trainer.profiling.instruments`."""
    operation: str
    bytes: int
    """Bytes that each rank contributes."""
    device: str
    in_background: bool
    """Whether the step goes on while it is under way."""


@dataclass
class CompiledGraphs:
    """What torch.compile makes of the networks."""

    number: int
    """Graphs. Each network has one for each way in which the step calls it."""
    breaks: Counter[str]
    """Reasons for which a graph ends within a network, each with the number of places."""


@dataclass
class StepRecord:
    """What one step does, each with how often it does it."""

    kernels: Counter[Kernel] = field(default_factory=Counter)
    waits: Counter[HostWait] = field(default_factory=Counter)
    mixes: Counter[DeviceMix] = field(default_factory=Counter)
    copies: Counter[BusCopy] = field(default_factory=Counter)
    messages: Counter[SentMessage] = field(default_factory=Counter)
    slow_lists: Counter[str] = field(default_factory=Counter)
    """Launches of operations on lists of tensors that handle one tensor after the other, by operation and place."""
    layouts: Counter[str] = field(default_factory=Counter)
    """Convolutions by type and memory format of their inputs."""
    graphs: CompiledGraphs | None = None
    """With `parallel.compile`. All else describes the step without it."""
    state_bytes: int = 0
    """Device memory before the step: weights, optimizer state, queue."""
    peak_bytes: int = 0
    """Largest device memory during the step, without what the allocator or libraries add."""

    @property
    def launches(self) -> int:
        """Kernels that the step launches."""
        return sum(kernel.launches * times for kernel, times in self.kernels.items())

    @property
    def flops(self) -> int:
        """Floating-point operations of the step."""
        return sum(kernel.flops * times for kernel, times in self.kernels.items())

    @property
    def bytes(self) -> int:
        """Bytes of device memory that the step reads and writes."""
        return sum(kernel.bytes * times for kernel, times in self.kernels.items())

    @property
    def host_waits(self) -> Counter[HostWait]:
        """The waits of the host, without `EXPECTED_WAITS`."""
        expected = tuple(EXPECTED_WAITS)
        return Counter({wait: n for wait, n in self.waits.items() if not wait.where.startswith(expected)})

    @property
    def device_mixes(self) -> int:
        """Operations that mix devices."""
        return self.mixes.total()

    @property
    def copied_to_device(self) -> int:
        """Bytes copied from host to device."""
        return sum(c.bytes * times for c, times in self.copies.items() if c.direction == "host to device")

    def message_totals(self) -> dict[str, tuple[int, int]]:
        """Return number and bytes of the messages by content."""
        totals: dict[str, tuple[int, int]] = {}
        for message, times in self.messages.items():
            number, size = totals.get(message.kind, (0, 0))
            totals[message.kind] = number + times, size + message.bytes * times
        return totals

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain values. `from_json` reads them."""
        found: dict[str, Any] = {"state_bytes": self.state_bytes, "peak_bytes": self.peak_bytes}
        for name in _COUNTERS:
            found[name] = [[key, times] for key, times in getattr(self, name).items()]
        if self.graphs is not None:
            found["graphs"] = {"number": self.graphs.number, "breaks": dict(self.graphs.breaks)}
        return found

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "StepRecord":
        """Return the record that `as_json` described."""
        counters: dict[str, Any] = {
            name: Counter({(kind(*key) if isinstance(key, list) else key): n for key, n in values[name]})
            for name, kind in _COUNTERS.items()
        }
        graphs = values.get("graphs")
        return cls(
            **counters,
            graphs=graphs and CompiledGraphs(graphs["number"], Counter(graphs["breaks"])),
            state_bytes=values["state_bytes"],
            peak_bytes=values["peak_bytes"],
        )


_COUNTERS: dict[str, Any] = {
    "kernels": Kernel,
    "waits": HostWait,
    "mixes": DeviceMix,
    "copies": BusCopy,
    "messages": SentMessage,
    "slow_lists": str,
    "layouts": str,
}
