"""The interface of augmentation backends: encoded images and view parameters in, tensors out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from data_pipelines.imaging.augment import AugmentationParams


class DecodeError(Exception):
    """Some images of a batch cannot be decoded, so no views were made for the batch.

    Args:
        rows: reason for each failed row of the batch.
    """

    def __init__(self, rows: Mapping[int, str]) -> None:
        self.rows = dict(rows)
        super().__init__(f"images that cannot be decoded, by row: {self.rows}")


class AugmentationBackend(Protocol):
    """Decodes each image once and makes all of its views. It has no randomness and no position."""

    ahead: int
    """Number of batches that it can have begun beside the one that is finished next. More would not be faster."""

    def begin(
        self, images: Sequence[bytes], views: Sequence[AugmentationParams]
    ) -> Callable[[], list[torch.Tensor]]:
        """Begin a batch. A batch that is begun again, because some of its images were refused, may be finished before
        one that was begun earlier.

        Returns a function that finishes the batch. It returns one tensor per view, each `[B, 3, S, S]` in channels-last
        memory, normalized or as pixels (uint8).

        Raises:
            DecodeError: the function raises it. It names the rows that cannot be decoded. The backend stays usable, and
                so do batches that were begun after this one.
        """
        ...
