"""What every executor does: encoded images and the numbers of their views in, normalized tensors out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from data_pipelines.imaging.augment import AugmentationParams


class DecodeError(Exception):
    """Some images of a batch cannot be decoded; nothing was made of the batch.

    Args:
        rows: reason for each refused row of the batch.
    """

    def __init__(self, rows: Mapping[int, str]) -> None:
        self.rows = dict(rows)
        super().__init__(f"images that cannot be decoded, by row: {self.rows}")


class AugmentationBackend(Protocol):
    """Decodes each image once and makes every view of it. Holds no randomness and no position."""

    def run(self, images: Sequence[bytes], views: Sequence[AugmentationParams]) -> list[torch.Tensor]:
        """One tensor a view, each `[B, 3, S, S]` in channels-last memory, normalized.

        Raises:
            RefusedImages: names the rows that cannot be decoded; the executor stays usable.
        """
        ...
