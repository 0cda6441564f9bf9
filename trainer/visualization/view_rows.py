"""Images with the views that a run's augmentation makes of them."""

from dataclasses import dataclass

import numpy as np

from data_pipelines.inspect.gallery import first_views
from data_pipelines.shards.mixed_set import open_train_shards
from trainer.runs.run_folder import RunFolder
from trainer.visualization.samples import class_name, tile

_SIDE = 128


@dataclass(frozen=True)
class ViewRow:
    """An image with its views."""

    original: bytes
    """JPEG of the full image."""
    views: tuple[bytes, ...]
    """JPEGs of the views, in the order of the recipe."""
    name: str
    """Class name of the image, empty if unlabeled."""


def view_rows(run: RunFolder, *, images: int = 6) -> list[ViewRow]:
    """Return the first images of the run's first epoch, each with exactly the views that the run saw.

    Unreadable images are skipped. A streamed dataset has no fixed first images, so the list is empty.

    Raises:
        UserError: the training set is missing, or none of its images can be read.
    """
    config = run.read_config()
    if config.data.reader == "stream":
        return []
    shards = open_train_shards(config.data)
    first = first_views(
        shards,
        config.data,
        seed=config.run.seed,
        epoch=0,
        images=images,
        global_batch=config.train.global_batch,
    )
    rows = []
    for row, (sample, original) in enumerate(zip(first.samples, first.originals, strict=True)):
        pixels = [np.rint(255 * view[row].clip(0, 1)).astype(np.uint8) for view in first.views]
        views = tuple(tile(view, _SIDE) for view in pixels)
        rows.append(ViewRow(tile(original, _SIDE), views, class_name(shards, sample)))
    return rows
