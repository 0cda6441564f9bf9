"""Estimates what a recorded step takes on a GPU: a roofline of each operation, the host's launches, and messages."""

from collections import defaultdict
from dataclasses import dataclass

from trainer.distributed.message_kinds import BATCH_STATISTICS
from trainer.profiling.dry_run.cards import Card
from trainer.profiling.dry_run.record import Kernel, StepRecord
from trainer.profiling.instruments import BACKWARD
from trainer.profiling.network_model import Network

REACHED_FLOPS = 0.5
"""Fraction of the peak that convolutions and products of usual sizes reach. An assumption."""
REACHED_BANDWIDTH = 0.85
"""Fraction of the peak bandwidth that elementwise operations reach. An assumption."""
LAUNCH_SECONDS = 6e-6
"""Time in which Python, autograd and the runtime launch a kernel. An assumption."""
IMAGES_PER_CORE = 480
"""Images per second that a core decodes into two views of 224 px (docs/explanation/data.md, measured)."""
TWO_VIEWS = 2 * 224**2
"""Pixels of these views."""

KERNELS, LAUNCHES, MESSAGES = "kernels", "launches", "communication"


@dataclass(frozen=True)
class Estimate:
    """The expected time of a step. All times are in seconds."""

    parts: dict[tuple[str, str], float]
    """Time of the kernels by part of the step and kind, if none is fused."""
    launches: float
    """Time in which the host launches all kernels. Host and device work at the same time."""
    awaited: float
    """Time of the messages that the step waits for."""
    gradients: float
    """Time of the messages in the background that outlasts the backward pass."""
    rows: int
    """Images of a rank in a step."""
    view_pixels: int
    """Pixels of all views of an image."""
    flops: float
    peak: float

    @property
    def kernels(self) -> float:
        """Time of all kernels."""
        return sum(self.parts.values())

    @property
    def step(self) -> float:
        """Expected time of a step, if no operations are fused and data never lack."""
        return max(self.kernels, self.launches) + self.awaited + self.gradients

    @property
    def bound(self) -> str:
        """What takes most of the step: `KERNELS`, `LAUNCHES` or `MESSAGES`."""
        device = {KERNELS: self.kernels, LAUNCHES: self.launches, MESSAGES: self.awaited + self.gradients}
        return max(device, key=lambda name: device[name])

    @property
    def images_per_second(self) -> float:
        """Images that each GPU consumes per second."""
        return self.rows / self.step

    @property
    def cores(self) -> float:
        """CPU cores for each GPU that decode and augment as fast as the GPU consumes."""
        return self.images_per_second / (IMAGES_PER_CORE * TWO_VIEWS / self.view_pixels)

    @property
    def mfu(self) -> float:
        """Fraction of the card's peak that the model's operations reach."""
        return self.flops / self.step / self.peak


def kernel_seconds(kernel: Kernel, card: Card) -> float:
    """Return the time of one operation: that of its arithmetic or of its memory traffic, whichever is longer."""
    arithmetic = kernel.flops / (REACHED_FLOPS * card.flops[kernel.precision])
    return max(arithmetic, kernel.bytes / (REACHED_BANDWIDTH * card.bandwidth))


def estimate(
    record: StepRecord,
    card: Card,
    *,
    world_size: int,
    rows: int,
    view_sizes: list[int],
    batch_norm_group: int = 0,
    network: Network | None = None,
) -> Estimate:
    """Estimate the step that a dry run recorded.

    Args:
        record: the record of rank 0.
        card: the GPU of each rank.
        world_size: number of ranks.
        rows: images of a rank in a step.
        view_sizes: edge lengths of the views.
        batch_norm_group: ranks that share batch statistics. 0: all.
        network: links between the GPUs.
    """
    network = network or Network()
    parts: dict[tuple[str, str], float] = defaultdict(float)
    by_precision: dict[str, int] = defaultdict(int)
    for kernel, times in record.kernels.items():
        parts[kernel.part, kernel.kind] += times * kernel_seconds(kernel, card)
        by_precision[kernel.precision] += times * kernel.flops
    awaited = hidden = 0.0
    for message, times in record.messages.items():
        among = batch_norm_group if message.kind == BATCH_STATISTICS and batch_norm_group else world_size
        seconds = times * network.seconds(message.operation, message.bytes, min(among, world_size))
        if message.in_background:
            hidden += seconds
        elif world_size > 1:
            awaited += seconds
    backward = sum(seconds for (part, _), seconds in parts.items() if part == BACKWARD)
    return Estimate(
        parts=dict(parts),
        launches=record.launches * LAUNCH_SECONDS,
        awaited=awaited,
        gradients=max(0.0, hidden - backward),
        rows=rows,
        view_pixels=sum(size**2 for size in view_sizes),
        flops=record.flops,
        peak=card.flops[max(by_precision, key=lambda name: by_precision[name], default="bf16")],
    )
