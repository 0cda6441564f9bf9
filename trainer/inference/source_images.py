"""Batches of any images: files, folders, tars and indexed shards."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.loading.image_file_loader import PictureLoader
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.index import DATASET
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_files import Picture, pictures, require_source
from data_pipelines.urls import Url, place

OnBad = Callable[[str, str], None]
"""Called with the name of each skipped image and the reason."""


class SourceImages(NamedTuple):
    """Some images of a source."""

    keys: list[str]
    """Paths of the b images. Inside a tar or a dataset of shards, its path and the name in it."""
    labels: list[int] | None
    """Class of each image, -1 if it has none. None if the source has no labels at all."""
    images: Tensor
    """`[b, 3, S, S]`, normalized."""


def source_images(
    sources: Sequence[str], settings: DataSettings, *, batch: int, device: torch.device, on_bad: OnBad
) -> Generator[SourceImages, None, None]:
    """Yield all images of the sources in order, resized and normalized as for evaluation.

    Args:
        sources: images, folders of images, tars of images, and indexed datasets of shards, which may be URLs.
        settings: executor, threads, sizes, normalization, cache of URLs.
        batch: batch size.
        device: device of the batches.
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
                yield from _of_shards(ShardSet.open(folder, settings), settings, batch, device, on_bad)
        else:
            # one stream of all images, so that a thousand files do not become a thousand batches
            listed = chain.from_iterable(pictures(Path(path)) for path in group)
            yield from _of_pictures(listed, settings, batch, device, on_bad)


def no_images(sources: Sequence[str], skipped: int) -> UserError:
    """Return the error for sources without a readable image, after so many were skipped."""
    where = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1:,} more"
    if skipped:
        return UserError(f"none of {skipped:,} images is readable", where=where, fix="see the reasons above")
    return UserError(
        "there are no images",
        where=where,
        fix="give image files, or folders, tars or shards that contain .jpg, .png or .webp",
    )


def _is_indexed(source: Path | Url) -> bool:
    return isinstance(source, Url) or (source / DATASET).is_file()


def _of_shards(
    shards: ShardSet, settings: DataSettings, batch: int, device: torch.device, on_bad: OnBad
) -> Iterator[SourceImages]:
    loader = EvalLoader(shards, settings, rank=0, world_size=1, batch=batch, device=device)
    told, prefix = 0, f"{shards.folder}/"
    with loader:
        for images, labels, ids in loader:
            keys = [readable(prefix + shards.key(sample)) for sample in ids.tolist()]
            yield SourceImages(keys, labels.tolist() if shards.num_classes else None, images)
            told = _tell(loader.bad, told, prefix, on_bad)
        _tell(loader.bad, told, prefix, on_bad)


def _of_pictures(
    listed: Iterable[Picture], settings: DataSettings, batch: int, device: torch.device, on_bad: OnBad
) -> Iterator[SourceImages]:
    loader = PictureLoader(listed, settings, batch=batch, device=device)
    told = 0
    with loader:
        for images, names in loader:
            yield SourceImages(names, None, images)
            told = _tell(loader.bad, told, "", on_bad)
        _tell(loader.bad, told, "", on_bad)


def _tell(bad: dict[str, str], told: int, prefix: str, on_bad: OnBad) -> int:
    """Report the bad images after the first `told`. Return the number of images reported so far."""
    for name, reason in islice(bad.items(), told, None):
        on_bad(readable(prefix + name), reason)
    return len(bad)
