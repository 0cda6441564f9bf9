"""The CRC-32 of encoded images alone, computed from an index without reading an image."""

import zlib

import numpy as np
from numpy.typing import NDArray

_TABLE = np.array([zlib.crc32(bytes([i ^ 0xFF])) ^ 0xFF000000 for i in range(256)], np.uint32)
"""What each value of the lowest byte adds to a CRC-32, as the usual byte-wise algorithm has it."""
_BY_TOP_BYTE = np.argsort(_TABLE >> 24).astype(np.uint32)
"""Which entry of the table has a certain top byte. All 256 top bytes differ."""
_ALL_ONES = np.uint32(0xFFFFFFFF)


def image_checksums(index: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each encoded image, [N].

    The checksum of a row continues the CRC-32 of the image over label, width and height (`index.checksum`). The same
    image therefore has another checksum under another label. A step of a CRC-32 with a known byte can be undone, so the
    value before these fields is found without the image.

    Args:
        index: rows of an index, [N].
    """
    fields = np.zeros(len(index), [("label", "<i4"), ("width", "<u4"), ("height", "<u4")])
    for name in fields.dtype.names or ():
        fields[name] = index[name]
    after = fields.view(np.uint8).reshape(len(index), fields.itemsize)
    state = index["crc32"] ^ _ALL_ONES
    for byte in after.T[::-1]:
        entry = _BY_TOP_BYTE[state >> 24]
        state = ((state ^ _TABLE[entry]) << np.uint32(8)) | (entry ^ byte)
    checksums: NDArray[np.uint32] = state ^ _ALL_ONES
    return checksums
