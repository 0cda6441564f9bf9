"""Copies of tensors in host memory, which pass through a small pinned buffer if they come from a GPU."""

from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

STAGING_BYTES = 64 * 2**20
"""Size of the pinned buffer. A GPU fills one half while the host empties the other one."""


def clone_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a contiguous copy of each tensor in host memory, of the same type and bits, that shares nothing.

    Copies from CUDA pass through `STAGING_BYTES` of pinned memory, which the process keeps for the next call. They have
    arrived when this returns. The copies themselves are pageable: pinned memory of the size of the state would stay
    with torch's allocator, and no other process could use it.
    """
    copies = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu") for name, tensor in tensors.items()
    }
    copy_to_host(tensors, copies)
    return copies


def copy_to_host(tensors: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    """Copy tensors into contiguous tensors of the same names, shapes and types in host memory, as `clone_to_host` does.

    They have arrived when this returns.
    """
    on_device = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_cuda}
    for name in tensors.keys() - on_device.keys():
        copies[name].copy_(tensors[name].detach())
    if on_device:
        copy_through(_pinned_buffer(), on_device, copies)


def copy_through(staging: Tensor, sources: Mapping[str, Tensor], copies: Mapping[str, Tensor]) -> None:
    """Copy tensors into host tensors of the same names through a buffer, and return when they have arrived.

    Args:
        staging: `[bytes]` uint8 in host memory, pinned if the sources are on a GPU. At least 2.
        sources: tensors of one device. One that is not contiguous is made so there, only while it is copied.
        copies: contiguous tensors of their shapes and types in host memory.
    """
    halves = deque(map(_Half, staging.chunk(2)))  # the first one is filled next
    for piece, copy in _pieces(sources, copies, len(staging) // 2):
        if not halves[0].has_room(piece):
            halves[0].seal()
            halves.rotate()
            halves[0].empty()
        halves[0].take(piece, copy)
    halves[0].seal()
    halves.rotate()
    for half in halves:
        half.empty()


class _Half:
    """Half of a staging buffer `[bytes]`: filled with pieces by the device, then emptied by the host."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self._used = 0
        self._event: torch.cuda.Event | None = None
        self._pieces: list[tuple[Tensor, Tensor]] = []

    def has_room(self, piece: Tensor) -> bool:
        return self._used + len(piece) <= len(self._buffer)

    def take(self, piece: Tensor, copy: Tensor) -> None:
        """Begin to copy the bytes of a piece here, whose place in the end is `copy`."""
        staged = self._buffer[self._used : self._used + len(piece)]
        staged.copy_(piece, non_blocking=True)
        self._used += len(piece)
        self._pieces.append((staged, copy))
        if piece.is_cuda and self._event is None:
            self._event = torch.cuda.Event()

    def seal(self) -> None:
        """Mark that nothing more is copied here before it is emptied."""
        if self._event is not None:
            self._event.record()

    def empty(self) -> None:
        """Wait until all pieces are here, and move them to their places."""
        if self._event is not None:
            self._event.synchronize()
        for staged, copy in self._pieces:
            copy.copy_(staged)
        self._used, self._pieces, self._event = 0, [], None


def _pieces(
    sources: Mapping[str, Tensor], copies: Mapping[str, Tensor], most: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the bytes of each tensor and of its copy, at most `most` of them at a time."""
    for name, source in sources.items():
        if source.numel():
            parts = (t.view(-1).view(torch.uint8).split(most) for t in (source.contiguous(), copies[name]))
            yield from zip(*parts, strict=True)


@cache
def _pinned_buffer() -> Tensor:
    return torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=True)
