"""The way of batches to a GPU, beside the training: pixels as bytes, normalized there, one micro-batch ahead."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data_pipelines.imaging.normalization import Normalization
from data_pipelines.loading.prefetching_batches import Batch


@dataclass
class _Slot:
    """Device memory of one micro-batch."""

    memory: list[Tensor] = field(default_factory=list)
    """V x `[b, S, S, 3]`."""
    batch: Batch | None = None
    arrived: torch.cuda.Event | None = None
    """The copy of the batch is complete."""
    used: torch.cuda.Event | None = None
    """All work on the batch is complete, so its memory may be written again."""


class DeviceBatches:
    """Copies micro-batches to a GPU on a stream of its own, and normalizes them there.

    Bytes are a quarter of the float32 values that would otherwise cross the bus. The next micro-batch is copied while
    one is computed. The memory of normalized views belongs to two slots, so at most two micro-batches are on the
    device, whatever the accumulation. Streams wait for each other. The host waits for neither.

    Args:
        device: the GPU.
        dtype: dtype of the normalized views.
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
        keep: whether each batch gets memory of its own, for consumers that keep batches. Otherwise a batch is valid
            until the next one is taken.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        keep: bool = False,
    ) -> None:
        self._device, self._dtype, self._keep = device, dtype, keep
        self._normalize = Normalization(mean, std, device)
        self._stream = torch.cuda.Stream(device)
        self._slots, self._turn = (_Slot(), _Slot()), 0

    def bring(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches of pixels as normalized batches on the device.

        Args:
            batches: views V x `[b, 3, S, S]` uint8 in pinned memory or on the device, labels and ids in pinned memory.
        """
        ahead: _Slot | None = None
        for batch in batches:
            slot = self._start(batch)
            if ahead is not None:
                yield from self._lend(ahead)
            ahead = slot
        if ahead is not None:
            yield from self._lend(ahead)

    def _start(self, pixels: Batch) -> _Slot:
        """Start to copy a batch."""
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            if slot.used is not None:
                self._stream.wait_event(slot.used)
            views = [
                self._normalize(self._copied(view), out)
                for view, out in zip(pixels.views, self._memory(slot, pixels.views), strict=True)
            ]
            slot.batch = Batch(views, self._copied(pixels.labels), self._copied(pixels.ids))
            slot.arrived = self._stream.record_event()
        # The allocator may reuse memory of the copying stream only when the computing stream has done with it too.
        for tensor in (*(views if self._keep else ()), slot.batch.labels, slot.batch.ids):
            tensor.record_stream(compute)
        return slot

    def _lend(self, slot: _Slot) -> Iterator[Batch]:
        """Yield the batch of a slot. The slot is free when the consumer comes back."""
        assert slot.batch is not None
        assert slot.arrived is not None
        compute = torch.cuda.current_stream(self._device)
        compute.wait_event(slot.arrived)
        try:
            yield slot.batch
        finally:
            slot.used = compute.record_event()

    def _copied(self, tensor: Tensor) -> Tensor:
        if tensor.is_cuda:
            tensor.record_stream(self._stream)
        return tensor.to(self._device, non_blocking=True)

    def _memory(self, slot: _Slot, views: Sequence[Tensor]) -> list[Tensor]:
        """Return memory V x `[b, 3, S, S]`, channels-last, for the normalized views."""
        shapes = [(b, height, width, 3) for b, _, height, width in (view.shape for view in views)]
        if self._keep or [tuple(memory.shape) for memory in slot.memory] != shapes:
            slot.memory = [torch.empty(shape, dtype=self._dtype, device=self._device) for shape in shapes]
        return [memory.permute(0, 3, 1, 2) for memory in slot.memory]
