"""Tensors side by side in one buffer, so that one kernel scales each of them by a number of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

ROW = 1024
"""Elements of a row. A tensor takes whole rows, so it wastes less than one."""


class PaddedRows:
    """Places of T tensors in a buffer of R rows, [R, ROW].

    Torch's operations on lists launch one kernel for each tensor if the factors are on the device. Rows of the same
    tensor have the same factor, so one ordinary product scales the whole buffer.

    Args:
        sizes: number of elements of each tensor.
        device: device of the tensors.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self._rows = [-(-size // ROW) for size in sizes]
        # They are made on the device, because a copy from the host would wait for it.
        owners = [torch.full((rows,), owner, device=device) for owner, rows in enumerate(self._rows)]
        self._owner = torch.cat(owners)  # [R]

    def copy(self, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return a new buffer [R, ROW] with the values of the tensors, and the T parts of it that hold them.

        Parts have the shapes and strides of the tensors, which must have no gaps in memory.
        """
        buffer = tensors[0].new_empty(len(self._owner), ROW)
        places = buffer.flatten().split([rows * ROW for rows in self._rows])
        parts = [place.as_strided(t.shape, t.stride()) for place, t in zip(places, tensors, strict=True)]
        torch._foreach_copy_(parts, list(tensors))
        return buffer, parts

    def by_row(self, factors: Tensor) -> Tensor:
        """Return numbers of each tensor [..., T] as numbers of each row, [..., R, 1]."""
        return factors.index_select(-1, self._owner)[..., None]
