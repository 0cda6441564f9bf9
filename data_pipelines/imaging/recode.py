"""Resizing or re-encoding of images when they are written to a shard."""

from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from data_pipelines.imaging.depth import Range
from data_pipelines.imaging.images import Format, Header, decode_rgb

QUALITY = 90
"""Default JPEG quality of resized images."""


class Recoding(NamedTuple):
    """Which images to encode again, and how."""

    shorter: int | None = None
    """Shorter side in pixels to which larger images are resized. None: sizes stay."""
    quality: int | None = None
    """JPEG quality of all images, 1 to 100. None: images that are not resized keep their bytes."""
    values: Range | None = None
    """The values of 16-bit PNGs that become black and white. They are stored with 8 bits. None: their bytes are
    kept."""

    def __repr__(self) -> str:
        # An interrupted build recognizes its options by this text, also after an update.
        values = "" if self.values is None else f", values={self.values}"
        return f"Recoding(shorter={self.shorter}, quality={self.quality}{values})"

    def applies(self, header: Header) -> bool:
        """Return whether an image with this header is encoded again."""
        return self.quality is not None or self._shrinks(header)

    def apply(self, data: bytes, header: Header) -> tuple[bytes, Header]:
        """Encode an image as a JPEG of three components without metadata.

        The aspect ratio is kept to the nearest pixel. Pillow's bicubic filter widens with the shrink factor, so there
        is no aliasing at any factor. OpenCV's area filter avoids aliasing only at whole factors and is softer between
        them, and Lanczos rings at edges.

        Raises:
            UnusableImage: it cannot be decoded.
        """
        pixels = decode_rgb(data, header)  # [H, W, 3]
        if self._shrinks(header):
            assert self.shorter is not None
            scale = self.shorter / min(header.width, header.height)
            size = round(header.width * scale), round(header.height * scale)
            header = header._replace(width=size[0], height=size[1])
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), self.quality or QUALITY, colorsubsampling="420"
        )
        return jpeg, header._replace(format=Format.JPEG, plain_jpeg=True)

    def _shrinks(self, header: Header) -> bool:
        return self.shorter is not None and min(header.width, header.height) > self.shorter
