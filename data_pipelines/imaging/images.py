"""Encoded images: format and size from the header, validity checks, and decoding to RGB.

All backends share one definition of the pixels. libjpeg-turbo decodes plain JPEGs (8 bit, gray or three components).
Everything else follows Pillow's `convert("RGB")`: CMYK JPEGs use its inversion convention, palettes are expanded, and
alpha is dropped. Of 16-bit samples the high byte is kept. EXIF orientation is ignored, and only the first frame of an
animation is used.
"""

import io
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import BinaryIO, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_pipelines.imaging.completeness import jpeg_is_complete, png_is_complete, webp_is_complete

MIN_SIDE = 8
"""Minimum side of a usable image, in pixels. Smaller images have no room for crops."""
MAX_ASPECT = 20
"""Maximum aspect ratio (longer side / shorter side) of a usable image."""
MAX_PIXELS = 178_956_970
"""Maximum number of pixels. Larger images count as decompression bombs, as in Pillow's error."""

SHRINKS = (8, 4, 2)
"""Factors at which a JPEG decodes faster than at full size, because libjpeg-turbo has vector code for them."""


class Format(StrEnum):
    """Accepted image formats. The value is the file extension in shards."""

    JPEG = "jpg"
    PNG = "png"
    WEBP = "webp"


_IS_COMPLETE = {Format.JPEG: jpeg_is_complete, Format.PNG: png_is_complete, Format.WEBP: webp_is_complete}

# These classes are used instead of Image.open, which warns about large images at a lower limit.
_PILLOW: dict[Format, Callable[[BinaryIO], ImageFile]] = {
    Format.JPEG: JpegImageFile,
    Format.PNG: PngImageFile,
    Format.WEBP: WebPImageFile,
}


class UnusableImage(Exception):
    """An image that is not usable for training. The message is the reason in a few words."""


class Header(NamedTuple):
    """The information in the first bytes of an image."""

    format: Format
    width: int
    height: int
    plain_jpeg: bool
    """Whether it is a JPEG of 8 bits with one or three components and a common sampling of colors, which all decoders
    decode alike."""


def is_known(data: bytes) -> bool:
    """Return whether data begins as a JPEG, PNG or WebP image."""
    return (
        data[:3] == b"\xff\xd8\xff"
        or data[:8] == b"\x89PNG\r\n\x1a\n"
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    )


def read_header(data: bytes) -> Header:
    """Read the format and size of an encoded image from its content. The file name is ignored.

    Raises:
        UnusableImage: it is not a JPEG, PNG or WebP, its header is broken, or it is a decompression bomb.
    """
    if not data:
        raise UnusableImage("empty file")
    try:
        header = _parse(data)
    except (KeyError, ValueError, struct.error) as error:
        raise UnusableImage("broken header") from error
    if header is None:
        raise UnusableImage("not a JPEG, PNG or WebP image")
    if header.width * header.height > MAX_PIXELS:
        raise UnusableImage(f"more than {MAX_PIXELS} pixels")
    return header


def check(data: bytes, *, decode: bool) -> Header:
    """Return the header of an image if it is usable for training.

    Args:
        data: the encoded image.
        decode: whether to decode it completely. Otherwise only header and end marker are checked.

    Raises:
        UnusableImage: with the reason: not an image, truncated, too small, too elongated, too large, or undecodable.
    """
    header = read_header(data)
    shorter, longer = sorted((header.width, header.height))
    if shorter < MIN_SIDE:
        raise UnusableImage(f"shorter side below {MIN_SIDE} pixels")
    if longer > MAX_ASPECT * shorter:
        raise UnusableImage(f"aspect ratio above {MAX_ASPECT}")
    if not _IS_COMPLETE[header.format](data):
        raise UnusableImage("truncated")
    if decode:
        decode_rgb(data, header)
    return header


def decode_rgb(data: bytes, header: Header | None = None) -> NDArray[np.uint8]:
    """Decode an image to pixels `[H, W, 3]` uint8, red first.

    Raises:
        UnusableImage: it cannot be decoded.
    """
    return decode_shrunk(data, 1, header)[0]


def decode_shrunk(data: bytes, shrink: int, header: Header | None = None) -> tuple[NDArray[np.uint8], int]:
    """Decode an image at a fraction of its size if its format makes that cheaper.

    Args:
        data: the encoded image.
        shrink: 1, or one of `SHRINKS`.
        header: header of the image if it is known.

    Returns:
        pixels `[ceil(H / shrink), ceil(W / shrink), 3]` uint8, red first, and the `shrink` that was applied. It is 1 if
        the image is not a plain JPEG.

    Raises:
        UnusableImage: it cannot be decoded.
    """
    header = header or read_header(data)
    if header.plain_jpeg:
        height, width = -(-header.height // shrink), -(-header.width // shrink)
        try:
            return simplejpeg.decode_jpeg(
                data, "RGB", min_height=height, min_width=width, min_factor=shrink
            ), shrink
        except ValueError:
            pass  # warnings of libjpeg end up here too; Pillow decides whether such an image is valid
    try:
        return _pillow_rgb(data, header.format), 1
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error and more on broken files
        raise UnusableImage("cannot be decoded") from error


def _pillow_rgb(data: bytes, form: Format) -> NDArray[np.uint8]:
    image = _PILLOW[form](io.BytesIO(data))
    if image.mode.startswith("I"):
        high = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)  # [H, W]
        return np.repeat(high[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _parse(data: bytes) -> Header | None:
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", data, 16)
        return Header(Format.PNG, width, height, plain_jpeg=False)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _webp_size(data)
        return Header(Format.WEBP, width, height, plain_jpeg=False)
    return None


def _jpeg_header(data: bytes) -> Header:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:
        # TurboJPEG has names for common samplings only. Pillow reads all of them.
        try:
            width, height = JpegImageFile(io.BytesIO(data)).size
        except (
            Exception
        ) as error:  # Pillow's plugins raise SyntaxError, struct.error and more on broken files
            raise ValueError from error
        colorspace = None
    return Header(Format.JPEG, width, height, plain_jpeg=colorspace in ("Gray", "YCbCr", "RGB"))


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        if len(data) < 30:
            raise ValueError("header is cut")
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    raise ValueError("unknown chunk")
