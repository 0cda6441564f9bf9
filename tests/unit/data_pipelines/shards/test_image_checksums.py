import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.shards.image_checksums import image_checksums
from data_pipelines.shards.index import ROW, checksum

SIDES = st.integers(0, 2**32 - 1)


@given(
    images=st.lists(
        st.tuples(st.binary(max_size=40), st.integers(-1, 2**31 - 1), SIDES, SIDES), min_size=1, max_size=8
    )
)
def test_the_checksum_of_an_image_alone_is_found_from_its_row(
    images: list[tuple[bytes, int, int, int]],
) -> None:
    index = np.zeros(len(images), ROW)
    for row, (data, label, width, height) in zip(index, images, strict=True):
        row["label"], row["width"], row["height"] = label, width, height
        row["crc32"] = checksum(data, label, width, height)
    assert image_checksums(index).tolist() == [zlib.crc32(data) for data, *_ in images]


def test_an_empty_index_has_no_checksums() -> None:
    assert image_checksums(np.zeros(0, ROW)).shape == (0,)
