"""Images with a mask that gives the class of each pixel, in a folder with `images/` and `masks/`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_pipelines.errors import UserError
from data_pipelines.imaging.augment import center_crop_params
from data_pipelines.imaging.foreign import IMAGE_SUFFIXES
from data_pipelines.walk import files_below

VOID = 255
"""Value of pixels without a class."""
_MODES = ("1", "L", "P")


class MaskedImage(NamedTuple):
    """An image and the file of its mask, which has the same name with another ending."""

    image: Path
    mask: Path


def masked_images(folder: Path) -> list[MaskedImage]:
    """List the images of `folder/images` with their masks in `folder/masks`, sorted by path.

    A mask is a PNG of the same path, with a number below 255 for the class in each pixel, or 255 for none. PASCAL VOC
    and many other sets have such masks.

    Raises:
        UserError: a folder is missing or has no images, or an image has no mask.
    """
    images, masks = folder / "images", folder / "masks"
    for part in (images, masks):
        if not part.is_dir():
            raise UserError(
                f"there is no folder {part.name}",
                where=folder,
                fix="give a folder with images/ and masks/. The mask of images/a/b.jpg is masks/a/b.png",
            )
    found = sorted(path for path in files_below(images) if path.suffix.lower() in IMAGE_SUFFIXES)
    pairs = [MaskedImage(path, (masks / path.relative_to(images)).with_suffix(".png")) for path in found]
    without = [pair for pair in pairs if not pair.mask.is_file()]
    if without:
        raise UserError(
            f"{len(without):,} of {len(pairs):,} images have no mask, such as {without[0].image.relative_to(folder)}",
            where=folder,
            fix=f"add {without[0].mask.relative_to(folder)}, or move these images away",
        )
    if not pairs:
        raise UserError("has no images", where=images, fix="give a folder with .jpg, .png or .webp files")
    return pairs


def require_usable(pair: MaskedImage) -> None:
    """Look at the headers of a mask and its image, without decoding them.

    Raises:
        UserError: the mask cannot be read, has colors instead of numbers, or has another size than the image.
    """
    with _opened(pair) as mask, Image.open(pair.image) as image:
        if mask.mode not in _MODES:
            raise UserError(
                f"is a picture of mode {mask.mode}, but a mask has the number of a class in each pixel",
                where=pair.mask,
                fix="convert the masks to PNGs with one channel of 8 bits, or with a palette",
            )
        if mask.size != image.size:
            raise UserError(
                "has {} x {} pixels, but its image has {} x {}".format(*mask.size, *image.size),
                where=pair.mask,
                fix="give the mask of this image, at its size",
            )


def read_mask(pair: MaskedImage) -> NDArray[np.uint8]:
    """Return the class of each pixel, `[H, W]`. Raise a UserError if the file is broken.

    Args:
        pair: an image for which `require_usable` has passed.
    """
    with _opened(pair) as mask:
        return np.asarray(mask).astype(np.uint8)


@contextmanager
def _opened(pair: MaskedImage) -> Iterator[Image.Image]:
    try:
        with Image.open(pair.mask) as file:
            yield file
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(
            f"cannot be read: {error}", where=pair.mask, fix="replace the file, or move its image away"
        ) from error


def crop_mask(mask: NDArray[np.uint8], *, resize: int, crop: int) -> NDArray[np.uint8]:
    """Return the center of a mask, `[crop, crop]`, from the same square as `center_crop_params`. Each pixel takes the
    nearest one.

    Args:
        mask: `[H, W]`.
        resize: shorter side after resizing, in pixels.
        crop: side of the result, in pixels.
    """
    y, x, side, _ = center_crop_params(np.array([mask.shape]), resize=resize, crop=crop).box[0]
    places = ((np.arange(crop) + 0.5) * side / crop).astype(np.int64)
    return mask[y + places[:, None], x + places]
