"""A figure of images beside their views, with the augmentation parameters of each view."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.files import replacing
from data_pipelines.imaging.augment import AugmentationParams, numbers_of_views
from data_pipelines.imaging.images import UnusableImage, decode_rgb
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.loading.mixed_order import order_of
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import BadSample, ShardSet

_CELL = 2.2  # inches


class FirstViews(NamedTuple):
    """The first readable images of an epoch, with their views."""

    samples: list[int]
    """Sample ids of the B images."""
    originals: list[NDArray[np.uint8]]
    """B x `[H, W, 3]`."""
    views: list[NDArray[np.float32]]
    """V x `[B, S, S, 3]` in [0, 1], not normalized."""
    numbers: list[AugmentationParams]
    """Augmentation parameters of each of the V views."""
    refused: list[str]
    """Images that cannot be read: name and reason."""


def first_views(
    shards: ShardSet, settings: DataSettings, *, seed: int, epoch: int, images: int, global_batch: int = 1
) -> FirstViews:
    """Return the first images of an epoch with the views that a run sees.

    Args:
        shards: the dataset.
        settings: views and shuffling.
        seed: seed of the run.
        epoch: epoch of the sample order and the augmentations.
        images: maximum number of images, limited by the size of the dataset.
        global_batch: samples of one optimizer step of the run. Only the order of a mix depends on it.

    Raises:
        UserError: no image can be read.
    """
    order = order_of(shards, seed=seed, global_batch=global_batch, shuffle_block=settings.shuffle_block)
    drawn = order.draw(epoch, 0, min(images, order.steps_per_epoch * global_batch))
    good, decoded, refused = _read(shards, drawn.ids)
    if not decoded:
        raise UserError("none of the images can be read", where=shards.folder, fix=refused[0])
    ids, passes = drawn.ids[good], drawn.passes[good]
    numbers = numbers_of_views(settings.views, shards.sizes(ids), seed=seed, epoch=passes, samples=ids)
    views = _make([data for data, _ in decoded], numbers)
    return FirstViews(ids.tolist(), [pixels for _, pixels in decoded], views, numbers, refused)


def draw(
    shards: ShardSet, settings: DataSettings, out: Path, *, seed: int, epoch: int, images: int
) -> list[str]:
    """Draw the `first_views`, one row for each image: the original with its crops, then every view.

    Args:
        shards: the dataset.
        settings: views and shuffling.
        out: a PNG, PDF or SVG file.
        seed: seed of the run.
        epoch: epoch of the sample order and the augmentations.
        images: number of rows, limited by the size of the dataset.

    Returns:
        the images that could not be drawn: sample and reason.

    Raises:
        UserError: `out` cannot be written, or no image can be read.
    """
    first = first_views(shards, settings, seed=seed, epoch=epoch, images=images)
    names = [shards.key(sample) for sample in first.samples]
    _picture(out, first.originals, first.views, first.numbers, names)
    return first.refused


def _read(
    shards: ShardSet, samples: NDArray[np.int64]
) -> tuple[list[int], list[tuple[bytes, NDArray[np.uint8]]], list[str]]:
    """Return the rows of the readable samples, their bytes with their pixels, and name and reason of the others."""
    good, decoded, refused = [], [], []
    for row, sample in enumerate(samples.tolist()):
        try:
            data = shards.read(sample)
            decoded.append((data, decode_rgb(data)))
            good.append(row)
        except (BadSample, UnusableImage) as error:
            refused.append(f"{shards.key(sample)}: {error}")
    return good, decoded, refused


def _make(images: list[bytes], numbers: list[AugmentationParams]) -> list[NDArray[np.float32]]:
    """V x `[B, S, S, 3]` in [0, 1]."""
    with ThreadPoolExecutor(1) as pool:
        executor = OpenCVBackend(
            pool, threads=1, mean=(0, 0, 0), std=(1, 1, 1), device=torch.device("cpu"), dtype=torch.float32
        )
        return [view.permute(0, 2, 3, 1).numpy() for view in executor.begin(images, numbers)()]


def _picture(
    out: Path,
    originals: list[NDArray[np.uint8]],
    views: list[NDArray[np.float32]],
    numbers: list[AugmentationParams],
    names: list[str],
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colormaps, pyplot

    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    rows, columns = len(originals), 1 + len(views)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(_CELL * columns, 1.35 * _CELL * rows), squeeze=False, layout="constrained"
    )
    for row, (cells, original) in enumerate(zip(axes, originals, strict=True)):
        _show(cells[0], original, f"{names[row]}\n{original.shape[1]} x {original.shape[0]}")
        for number, (cell, view) in enumerate(zip(cells[1:], views, strict=True)):
            color = colors[number % len(colors)]
            y, x, h, w = numbers[number].box[row]
            cells[0].add_patch(pyplot.Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=1.5))
            _show(cell, view[row], _words(numbers[number], row))
            cell.set_title(f"view {number}, {numbers[number].size} px", fontsize=7, color=color)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            figure.savefig(temporary, dpi=110, format=out.suffix.removeprefix(".") or "png")
    except (OSError, ValueError) as error:  # ValueError: matplotlib does not know the suffix
        raise UserError(
            f"the figure cannot be written: {error}", where=out, fix="choose a .png file with --out"
        ) from None
    finally:
        pyplot.close(figure)


def _show(cell: Any, pixels: NDArray[Any], words: str) -> None:
    cell.imshow(pixels)
    cell.set(xticks=[], yticks=[])
    cell.set_xlabel(words, fontsize=6)


def _words(numbers: AugmentationParams, row: int) -> str:
    """Describe the augmentations of one view, without those that were not applied."""
    y, x, h, w = numbers.box[row]
    lines = [f"crop {w} x {h} at {x}, {y}"]
    if numbers.color_changes()[row]:
        factors = (numbers.brightness, numbers.contrast, numbers.saturation, numbers.hue)
        b, c, s, turn = (float(factor[row]) for factor in factors)
        lines.append(f"b {b:.2f}, c {c:.2f}, " + ("gray" if s == 0 else f"s {s:.2f}, h {turn:+.3f}"))
    others = {"flip": numbers.flip[row], "solarize": numbers.solarize[row]}
    words = [word for word, done in others.items() if done]
    if (sigma := float(numbers.blur_sigma[row])) > 0:
        words.append(f"blur {sigma:.2f} px")
    return "\n".join([*lines, ", ".join(words)]).rstrip()
