import shutil
from pathlib import Path

import numpy as np

from data_pipelines.inspect.duplicates import Found, Occurrence, find_duplicates, likely_duplicates
from data_pipelines.shards.index import checksum
from data_pipelines.shards.shard_set import ShardSet


def search(*sets: ShardSet) -> Found:
    return find_duplicates(sets, likely_duplicates(sets))


def test_images_that_all_differ_are_not_even_read(whole_set: Path) -> None:
    assert likely_duplicates([ShardSet.open(whole_set)]) == []


def test_the_images_of_a_part_are_found_in_the_whole(whole_set: Path) -> None:
    whole = ShardSet.open(whole_set)
    chosen = np.array([3, 30, 31, 89])
    found = search(whole, whole.subset(chosen))
    expected = [[Occurrence(0, sample), Occurrence(1, i)] for i, sample in enumerate(chosen.tolist())]
    assert found == Found(expected, [])
    assert found.between() == found.groups
    assert found.within(0) == found.within(1) == []


def test_labels_do_not_matter(whole_set: Path) -> None:
    whole = ShardSet.open(whole_set)
    part = whole.subset(np.array([7]))
    with_other_label = part.index.copy()
    with_other_label["label"] = -1
    row = with_other_label[0]
    row["crc32"] = checksum(part.read(0), -1, int(row["width"]), int(row["height"]))
    assert search(whole, part.with_classes((), with_other_label)).groups == [
        [Occurrence(0, 7), Occurrence(1, 0)]
    ]


def test_what_only_looks_equal_is_no_duplicate(whole_set: Path) -> None:
    whole = ShardSet.open(whole_set)
    assert find_duplicates([whole], [Occurrence(0, 1), Occurrence(0, 2)]).groups == []


def test_a_sample_that_cannot_be_read_is_named_and_the_search_goes_on(
    whole_set: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole_set, tmp_path / "set")
    copy, whole = ShardSet.open(folder), ShardSet.open(whole_set)
    path = folder / f"shard-{copy.index['shard'][3]:06d}.tar"
    data = bytearray(path.read_bytes())
    data[int(copy.index["offset"][3]) + 50] ^= 4
    path.write_bytes(data)
    found = search(whole, copy)
    assert found.bad == [(Occurrence(1, 3), "CRC differs from the index")]
    assert len(found.between()) == len(whole) - 1
