"""Batched features of any images: files, folders, tars and indexed shards."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.formatting import readable
from data_pipelines.loading.image_file_loader import PictureLoader
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.index import DATASET
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_files import Picture, pictures, require_source
from data_pipelines.urls import Url, place
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
    backbone: Backbone,
    sources: Sequence[str],
    settings: DataSettings,
    *,
    batch: int,
    on_bad: Callable[[str, str], None],
) -> Generator[Rows, None, None]:
    """Yield the features of all images of the sources in order, resized and normalized as for evaluation.

    Args:
        backbone: the backbone in evaluation mode. Images go to its device.
        sources: images, folders of images, tars of images, and indexed datasets of shards, which may be URLs.
        settings: executor, threads, sizes, normalization, cache of URLs.
        batch: batch size.
        on_bad: called with the name of each skipped image and the reason.

    Raises:
        UserError: a source is missing (raised before the first image is read), or as for `pictures.pictures` and
            `ShardSet.open`.
    """
    places = [place(source) for source in sources]
    for path in places:
        if isinstance(path, Path):
            require_source(path)
    for indexed, group in groupby(places, key=_is_indexed):
        if indexed:
            for folder in group:
                yield from _of_shards(backbone, ShardSet.open(folder, settings), settings, batch, on_bad)
        else:
            # one stream of all images, so that a thousand files do not become a thousand batches
            listed = chain.from_iterable(pictures(Path(path)) for path in group)
            yield from _of_pictures(backbone, listed, settings, batch, on_bad)


def _is_indexed(source: Path | Url) -> bool:
    return isinstance(source, Url) or (source / DATASET).is_file()


def _of_shards(
    backbone: Backbone,
    shards: ShardSet,
    settings: DataSettings,
    batch: int,
    on_bad: Callable[[str, str], None],
) -> Iterator[Rows]:
    loader = EvalLoader(shards, settings, rank=0, world_size=1, batch=batch, device=_device(backbone))
    told, prefix = 0, f"{shards.folder}/"
    with loader:
        for images, labels, ids in loader:
            keys = [readable(prefix + shards.key(sample)) for sample in ids.tolist()]
            known = labels.tolist() if shards.num_classes else None
            yield Rows(keys, known, _features(backbone, images))
            told = _tell(loader.bad, told, prefix, on_bad)
        _tell(loader.bad, told, prefix, on_bad)


def _of_pictures(
    backbone: Backbone,
    listed: Iterable[Picture],
    settings: DataSettings,
    batch: int,
    on_bad: Callable[[str, str], None],
) -> Iterator[Rows]:
    loader = PictureLoader(listed, settings, batch=batch, device=_device(backbone))
    told = 0
    with loader:
        for images, names in loader:
            yield Rows(names, None, _features(backbone, images))
            told = _tell(loader.bad, told, "", on_bad)
        _tell(loader.bad, told, "", on_bad)


def _tell(bad: dict[str, str], told: int, prefix: str, on_bad: Callable[[str, str], None]) -> int:
    """Report the bad images after the first `told`. Return the number of images reported so far."""
    for name, reason in islice(bad.items(), told, None):
        on_bad(readable(prefix + name), reason)
    return len(bad)


@torch.no_grad()
def _features(backbone: Backbone, images: Tensor) -> NDArray[np.float32]:
    features: NDArray[np.float32] = backbone(images).float().cpu().numpy()  # [b, F]
    return features


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.parameters()).device
