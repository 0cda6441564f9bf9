"""Batched features of any images: files, folders, tars and indexed shards."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.settings import DataSettings
from trainer.inference.source_images import OnBad, source_images
from trainer.networks.backbones import Backbone


class Rows(NamedTuple):
    """Features of some images."""

    keys: list[str]
    """Paths of the b images. Inside a tar or a dataset of shards, its path and the name in it."""
    labels: list[int] | None
    """Class of each image, -1 if it has none. None if the source has no labels at all."""
    features: NDArray[np.float32]
    """`[b, F]`."""


def embed(
    backbone: Backbone, sources: Sequence[str], settings: DataSettings, *, batch: int, on_bad: OnBad
) -> Generator[Rows, None, None]:
    """Yield the features of all images of the sources in order, resized and normalized as for evaluation.

    Args:
        backbone: the backbone in evaluation mode. Images go to its device.
        sources: images, folders of images, tars of images, and indexed datasets of shards, which may be URLs.
        settings: executor, threads, sizes, normalization, cache of URLs.
        batch: batch size.
        on_bad: called with the name of each skipped image and the reason.

    Raises:
        UserError: as for `source_images`.
    """
    device = next(backbone.parameters()).device
    with closing(source_images(sources, settings, batch=batch, device=device, on_bad=on_bad)) as found:
        for keys, labels, images in found:
            yield Rows(keys, labels, _features(backbone, images))


@torch.no_grad()
def _features(backbone: Backbone, images: Tensor) -> NDArray[np.float32]:
    features: NDArray[np.float32] = backbone(images).float().cpu().numpy()  # [b, F]
    return features
