"""What a profile has measured."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Profile:
    """The measurements. Times are in seconds, as means over the ranks.

    Each time is the median of rounds. In a round it is the mean of several steps, because data may arrive in bursts.
    """

    world_size: int
    global_batch: int
    precision: str
    device: str
    step: float
    """Time of a training step."""
    parts: dict[str, float]
    """The same time by part. The network's parts are measured while the loader rests, so that each is charged for its
    own work. What they take longer beside a busy loader is the part `loader's cores`."""
    without_data: float
    """Time of a step on a batch that is already loaded, while the loader rests."""
    without_messages: float
    """Time of a step on a loaded batch if no rank communicates."""
    loader: float
    """Time in which the loader alone makes the batches of a step."""
    transfer: float
    """Time to copy the pixels of a step from host to device, which the loader's thread does in parallel to the step. 0
    on a CPU."""
    checkpoint: float
    """Time that a checkpoint blocks training: the copy to host memory."""
    checkpoint_every: int
    """Steps between checkpoints. 0: only the last one."""
    flops: float
    """Floating-point operations of a step on one rank."""
    peak: float
    """Floating-point operations per second of matrix products in `types`, per rank, with all ranks at once."""
    peak_bf16: float
    """The same in bf16."""
    messages: list[dict[str, Any]]
    """Messages of a step on the first rank: each a `Message` with `times`, how often it is sent."""
    jitter: float
    """Standard deviation of a step with independently varying parts, estimated from the times of equal short work.
    Ranks wait for each other at every message."""
    memory: float
    """Peak memory of a rank so far in bytes: device memory, or resident memory."""
    overhead: float = 0.0
    """Time of a silent step that half a batch does not halve, without the update: what each operation costs whatever
    its size. On a CPU this is torch's dispatch and the start of its threads, on a GPU the launch of kernels."""
    spread: dict[str, float] = field(default_factory=dict)
    """Half of the interquartile range over the rounds, as a fraction of the median, by name of the measured time."""
    threads: int = 1
    """CPU threads of torch in each process."""
    crowded: float = 0.0
    """Fraction of the time in which the training thread waited for a core while the loader rested. Other programs
    had it."""

    types: dict[str, float] = field(default_factory=dict)
    """Fraction of the operations by the type in which they are multiplied: `bf16`, `fp16`, `tf32`, `fp32`, `fp64`."""
    data_sheet: str = ""
    """Name of the GPU, if its data sheet is known."""
    data_sheet_peak: float = 0.0
    """Operations per second of these types by the data sheet. 0: it is not known."""

    gpu: dict[str, float] = field(default_factory=dict)
    """What NVML says of the GPUs during training steps, as `GpuReadings.summary` names it. Empty: nothing."""

    @property
    def on_gpu(self) -> bool:
        """Whether the ranks have GPUs."""
        return not self.device.startswith("CPU")

    @property
    def message_bytes(self) -> float:
        """Bytes that a rank contributes to collectives in a step."""
        return float(sum(m["bytes"] * m["times"] for m in self.messages))

    @property
    def images_per_second(self) -> float:
        """Throughput of all ranks together."""
        return self.global_batch / self.step

    @property
    def mfu(self) -> float:
        """Fraction of the peak that the model's operations reach: that of the data sheet, or the measured one if the
        data sheet is not known."""
        return self.flops / self.step / (self.data_sheet_peak or self.peak)

    @property
    def peak_words(self) -> str:
        """The peak of `mfu` and where it comes from, for people."""
        types = ", ".join(f"{100 * part:.0f} % {name}" for name, part in self.types.items() if part >= 0.005)
        source = (
            f"the data sheet of {self.data_sheet}" if self.data_sheet else "a matrix product on this device"
        )
        return f"{(self.data_sheet_peak or self.peak) / 1e12:.2f} TFLOP/s of {source} ({types or self.precision})"

    def as_json(self) -> dict[str, Any]:
        """Return the profile as plain values."""
        derived = ("images_per_second", "mfu", "message_bytes", "peak_words")
        return asdict(self) | {name: getattr(self, name) for name in derived}
