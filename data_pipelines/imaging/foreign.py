"""Images of other formats than shards hold. They are stored as PNG, without loss.

Training reads JPEG, PNG and WebP only. Everything else that Pillow opens is encoded again when shards are built.
"""

from io import BytesIO

import numpy as np
from PIL import Image

from data_pipelines.imaging.images import MAX_PIXELS, UnusableImage, is_known

_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")
"""Formats of Pillow for pictures. Others run programs (EPS), or hold data of other kinds."""
_PNG_MODES = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}


def _suffixes() -> frozenset[str]:
    Image.init()
    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in _FORMATS and form in Image.OPEN
    )


KNOWN_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
"""File suffixes of the formats that shards hold."""
IMAGE_SUFFIXES = KNOWN_SUFFIXES | _suffixes()
"""File suffixes of all images that can be read, in lower case."""


def as_known_format(data: bytes) -> bytes:
    """Return an image in a format that shards hold: itself, or its first frame as a PNG.

    Data that is no image is returned as it is.

    Raises:
        UnusableImage: its pixels cannot be decoded or stored.
    """
    if is_known(data):
        return data
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableImage(f"more than {MAX_PIXELS} pixels")
            out = BytesIO()
            _in_png_mode(image).save(out, "PNG")
            return out.getvalue()
    except Image.UnidentifiedImageError:
        return data
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"more than {MAX_PIXELS} pixels") from error
    except UnusableImage:
        raise
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error and more on broken files
        raise UnusableImage("cannot be decoded") from error


def _in_png_mode(image: Image.Image) -> Image.Image:
    if image.mode in _PNG_MODES:
        image.load()
        return image
    if image.mode == "F":
        raise UnusableImage("pixels are floating-point numbers")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnusableImage("pixels have more than 16 bits")
        return Image.fromarray(values.astype(np.uint16))
    return image.convert("RGBA" if image.mode in ("PA", "RGBa", "La") else "RGB")
