"""What a run's augmentation makes of its images."""

from dataclasses import dataclass

import numpy as np

from data_pipelines.inspect.gallery import first_views
from data_pipelines.shards.shard_set import ShardSet
from trainer.runs.run_folder import RunFolder
from trainer.visualization.samples import class_name, tile

_SIDE = 128


@dataclass(frozen=True)
class ViewRow:
    """An image with its views."""

    original: bytes
    """JPEG of the whole image."""
    views: tuple[bytes, ...]
    """JPEGs, in the order of the recipe."""
    name: str
    """Class of the image, empty where unlabeled."""


def view_rows(run: RunFolder, *, images: int = 6) -> list[ViewRow]:
    """The first images of the run's first epoch, each with the very views that the run saw of it.

    Images that cannot be read are left out. A set that is streamed has no first images: there is no row.

    Raises:
        UserError: the training set is not there, or no image of it can be read.
    """
    config = run.read_config()
    if config.data.reader == "stream":
        return []
    shards = ShardSet.open(config.data.train, config.data)
    first = first_views(shards, config.data, seed=config.run.seed, epoch=0, images=images)
    rows = []
    for row, (sample, original) in enumerate(zip(first.samples, first.originals, strict=True)):
        pixels = [np.rint(255 * view[row].clip(0, 1)).astype(np.uint8) for view in first.views]
        views = tuple(tile(view, _SIDE) for view in pixels)
        rows.append(ViewRow(tile(original, _SIDE), views, class_name(shards, sample)))
    return rows
