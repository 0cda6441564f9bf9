"""PNGs of 16 bits whose values use only the lower part of the range, such as those of 12-bit cameras.

Of 16 bits the high byte is kept, so such images would be nearly black.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipelines.imaging.images import UnusableImage

Range = tuple[int, int]
"""The values that become black and white."""
FULL = 0xFFFF
_DIM = 1 << 14
"""Images of 16 bits are dim if no value reaches this."""


def is_deep(data: bytes) -> bool:
    """Return whether an encoded image is a PNG of 16 bits."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24 and data[24] == 16


def highest(data: bytes) -> int:
    """Return the highest value of a PNG of 16 bits. 0 if it cannot be decoded."""
    pixels = _decode(data)
    return 0 if pixels is None else int(_without_alpha(pixels).max())


def suggested_range(found: int) -> Range | None:
    """Return the range that images of 16 bits probably use, or None if they use all of it.

    Args:
        found: highest value of all images.
    """
    return (0, (1 << found.bit_length()) - 1) if 0 < found < _DIM else None


def dim_warning(images: int, found: int) -> str | None:
    """Return a warning if images of 16 bits are nearly black, or None.

    Args:
        images: number of images of 16 bits.
        found: their highest value.
    """
    if (values := suggested_range(found)) is None:
        return None
    return (
        f"no value of the {images:,} images of 16 bits is above {found:,} of {FULL:,}, so they are nearly black in "
        f"training. If they use {values[1].bit_length()} bits, build the set with --range {values[0]},{values[1]}"
    )


def rescaled(data: bytes, values: Range) -> bytes:
    """Return a PNG of 16 bits as a PNG of 8 bits, with a range of values spread over all levels. Others stay.

    Raises:
        UnusableImage: it cannot be decoded.
    """
    if not is_deep(data):
        return data
    pixels = _decode(data)
    if pixels is None:
        raise UnusableImage("cannot be decoded")
    low, high = values
    levels = (_without_alpha(pixels).astype(np.float32) - low) * (255 / (high - low))
    written, png = cv2.imencode(".png", np.clip(levels, 0, 255).round().astype(np.uint8))
    assert written
    return png.tobytes()


def _decode(data: bytes) -> NDArray[np.uint16] | None:
    """Pixels `[H, W]` or `[H, W, C]`, blue first."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels.astype(np.uint16) if pixels is not None else None


def _without_alpha(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return pixels[:, :, :3] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
