"""The way of pixels from the CPU to a GPU, beside the training: as bytes, normalized on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DeviceCopy:
    """Copies batches of pixels to a GPU on a stream of its own, and normalizes them there.

    Bytes are a quarter of the float32 values that would otherwise cross the bus. The calling thread waits for the copy,
    which is the loader's. The training never waits, and its stream has no copies.

    Args:
        normal: affine map `[3, 4]` of (red, green, blue, 1) in [0, 255] to normalized values. It is diagonal.
        device: the GPU.
        dtype: dtype of the normalized values.
    """

    def __init__(self, normal: NDArray[np.float32], device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._scale, self._offset = scale_and_offset(normal, device, dtype)

    def take(self, *shape: int) -> Tensor:
        """Return uninitialized pinned memory for pixels `[*shape]`. PyTorch reuses pinned memory itself."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def run(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the views V x `[B, S, S, 3]`, from pinned memory, normalized on the device: V x `[B, 3, S, S]`."""
        with torch.cuda.stream(self._stream):
            views = [
                normalize(pixels.to(self._device, non_blocking=True), self._scale, self._offset)
                for pixels in batch
            ]
        for view in views:
            # The allocator may reuse the memory only when the training has done with it too.
            view.record_stream(torch.cuda.default_stream(self._device))
        self._stream.synchronize()
        return views


def scale_and_offset(
    normal: NDArray[np.float32], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the factors and the offsets `[3]` of a diagonal affine map `[3, 4]` on a device."""
    return (
        torch.from_numpy(normal[:, :3].diagonal().copy()).to(device, dtype),
        torch.from_numpy(normal[:, 3].copy()).to(device, dtype),
    )


def normalize(pixels: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Return pixels `[B, S, S, 3]` uint8 times `scale` plus `offset` as `[B, 3, S, S]` in channels-last memory."""
    return torch.addcmul(offset, pixels.to(scale.dtype), scale).permute(0, 3, 1, 2)
