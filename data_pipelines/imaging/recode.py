"""Images made smaller or compressed again, once, on their way into a shard."""

from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from data_pipelines.imaging.images import Format, Header, decode_rgb

QUALITY = 90
"""JPEG quality of images that are made smaller, where none is asked for."""


class Recoding(NamedTuple):
    """Which images are encoded again, and how."""

    shorter: int | None = None
    """Shorter side in pixels that larger images are brought to; None: sizes stay."""
    quality: int | None = None
    """JPEG quality, 1 to 100, of all images; None: what is not made smaller keeps its bytes."""

    def applies(self, header: Header) -> bool:
        """Whether an image with this header is encoded again."""
        return self.quality is not None or self._shrinks(header)

    def apply(self, data: bytes, header: Header) -> tuple[bytes, Header]:
        """An image as a JPEG of three components, without metadata.

        Sides keep their proportion, to the nearest pixel. Pillow's bicubic filter is as wide as the shrink asks
        for, so nothing aliases at any factor: OpenCV's area filter does that at whole factors only and is softer
        between them, and Lanczos rings at edges.

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
