"""Normalization of pixels by the mean and the standard deviation of a data set."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def affine_map(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return the affine map `[3, 4]` of (red, green, blue, 1) in [0, 255] to normalized values.

    Args:
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
    """
    scale = 1 / np.asarray(std)
    return np.column_stack([np.diag(scale / 255), -np.asarray(mean) * scale]).astype(np.float32)


class Normalization:
    """Normalizes pixels on a device, with one kernel for a batch.

    Args:
        mean: mean of red, green and blue in [0, 1].
        std: standard deviation of red, green and blue in [0, 1].
        device: device of the pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        # Both are made on the CPU: a kernel that made them on a GPU would belong to another stream than their users.
        numbers = torch.from_numpy(affine_map(mean, std))  # [3, 4]
        self._scale = numbers[:, :3].diagonal().clone().view(3, 1, 1).to(device)
        self._offset = numbers[:, 3].clone().view(3, 1, 1).to(device)

    def __call__(self, pixels: Tensor, out: Tensor) -> Tensor:
        """Write normalized pixels `[B, 3, S, S]` uint8 to `out` of the same shape. They are computed in float32 and
        rounded to the dtype of `out`."""
        return torch.addcmul(self._offset, pixels, self._scale, out=out)
