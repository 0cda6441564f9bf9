from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from data_pipelines.shards.class_union import join_classes, renumbered
from data_pipelines.shards.index import ROW, checksum

A, B, C = Path("a"), Path("b"), Path("c")


def test_equal_classes_are_shared() -> None:
    assert join_classes([(A, ("ant", "bee")), (B, ("ant", "bee"))]) == ("ant", "bee")


def test_other_classes_follow_those_of_the_sets_before() -> None:
    sets = [(A, ("bee", "ant")), (B, ("cat", "ant", "dog")), (C, ("ape", "dog"))]
    assert join_classes(sets) == ("bee", "ant", "cat", "dog", "ape")


def test_sets_without_labels_add_no_class() -> None:
    assert join_classes([(A, ()), (B, ("ant", "bee")), (C, ())]) == ("ant", "bee")
    assert join_classes([(A, ()), (B, ())]) == ()


def test_numbers_join_with_names_and_with_the_same_numbers() -> None:
    assert join_classes([(A, ("0", "1")), (B, ("ant",))]) == ("0", "1", "ant")
    assert join_classes([(A, ("0", "1")), (B, ("0", "1"))]) == ("0", "1")


def test_different_numbers_cannot_be_joined() -> None:
    with pytest.raises(UserError) as error:
        join_classes([(A, ("0", "1")), (C, ("ant",)), (B, ("0", "1", "2"))])
    assert str(error.value) == (
        "b: its 3 classes have numbers as names, and so have the 2 classes of a. Equal numbers may mean different "
        "classes, so their labels cannot be joined\n"
        "  fix: name its classes: all4one data index b --classes FILE"
    )


@given(data=st.data())
def test_renumbered_rows_have_right_checksums(data: st.DataObject) -> None:
    before = ["ant", "bee", "cat"]
    after = data.draw(st.permutations([*before, "dog", "ape"]))
    rows = np.zeros(4, ROW)
    images = data.draw(st.lists(st.binary(max_size=40), min_size=4, max_size=4))
    rows["label"] = [0, 2, -1, 1]
    rows["width"], rows["height"] = [3, 70_000, 5, 1], [1, 2, 2**31, 9]
    for row, image in zip(rows, images, strict=True):
        row["crc32"] = checksum(image, int(row["label"]), int(row["width"]), int(row["height"]))
    kept = rows.copy()
    new = renumbered(rows, before, after)
    assert [after[label] if label >= 0 else None for label in new["label"]] == ["ant", "cat", None, "bee"]
    for row, image in zip(new, images, strict=True):
        assert row["crc32"] == checksum(image, int(row["label"]), int(row["width"]), int(row["height"]))
    np.testing.assert_array_equal(rows, kept)


def test_rows_whose_labels_stay_are_not_copied() -> None:
    rows = np.zeros(2, ROW)
    assert renumbered(rows, ["ant"], ["ant", "bee"]) is rows
