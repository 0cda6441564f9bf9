"""Whether an encoded image is complete, decided without decoding its pixels.

Phones append videos, depth maps and further images behind the end of an image. Such data is ignored, as decoders do.
"""

import re
import struct
import zlib

_PNG_END = b"IEND\xaeB`\x82"
_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers without a length: TEM, restarts and the start of an image."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""The first marker behind coded pixels. Inside them, a byte 0xFF is followed by 0 or is a restart."""


def jpeg_is_complete(data: bytes) -> bool:
    """Return whether a JPEG has its end marker behind its last scan."""
    # Coded pixels contain neither marker, so an end after the last start of scan belongs to the image itself, and the
    # end of an embedded thumbnail comes before it. This is the common case. Data behind the end may contain any bytes.
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") >= 0 or _reaches_end(data)


def png_is_complete(data: bytes) -> bool:
    """Return whether a PNG has its end chunk, or at least all of its pixels."""
    return _PNG_END in data or _has_all_pixels(data)


def webp_is_complete(data: bytes) -> bool:
    """Return whether a WebP is as long as its header claims."""
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


def _reaches_end(data: bytes) -> bool:
    """Follow the segments of a JPEG from its start to its end marker."""
    position, scans = 2, 0
    while (position := data.find(b"\xff", position)) >= 0:
        code = data[position + 1] if position + 1 < len(data) else 0xFF
        if code == _END:
            return scans > 0
        if code in (0x00, 0xFF):
            position += 1
        elif code in _ALONE:
            position += 2
        else:
            if position + 4 > len(data):
                return False
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            if code == _SCAN:
                scans += 1
                found = _MARKER.search(data, position)
                if found is None:
                    return False
                position = found.start()
    return False


def _has_all_pixels(data: bytes) -> bool:
    """Decompress the pixels of a PNG without an end chunk. They are complete if their stream ends."""
    stream = zlib.decompressobj()
    position = 8
    try:
        while position + 8 <= len(data) and not stream.eof:
            size, kind = struct.unpack_from(">I4s", data, position)
            if kind == b"IDAT":
                stream.decompress(data[position + 8 : position + 8 + size])
            position += 12 + size
    except zlib.error:
        return False
    return stream.eof and position <= len(data)
