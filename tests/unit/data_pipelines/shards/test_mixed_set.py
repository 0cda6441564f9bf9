import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_sets import make_set

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards, with_classes_of
from data_pipelines.shards.shard_set import BadSample, ShardSet


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Sets of 20 and 30 samples in 3 and 4 shards. They share the class `light`."""
    return (
        make_set(tmp_path / "a", 20, ["dark", "light"]),
        make_set(tmp_path / "b", 30, ["light", "bright", "dim"]),
    )


def mix(folders: Sequence[Path], *weights: float, **changes: Any) -> ShardSet:
    train = [{"path": folder} for folder in folders]
    for one, weight in zip(train, weights, strict=False):
        one |= {"weight": weight}  # type: ignore[dict-item]
    return open_train_shards(DataSettings.model_validate({"train": train} | changes))


def test_samples_and_shards_count_through_the_sets(folders: tuple[Path, Path]) -> None:
    a, b = (ShardSet.open(folder) for folder in folders)
    both = mix(folders)
    assert (len(both), both.shard_sizes) == (50, [8, 8, 4, 8, 8, 8, 6])
    for sample in range(50):
        own, number, folder = (a, sample, folders[0]) if sample < 20 else (b, sample - 20, folders[1])
        assert both.read(sample) == own.read(number)
        assert both.key(sample) == f"{folder}/{own.key(number)}"
        assert both.location(sample) == both.key(sample)
        assert both.folder_of(sample) == folder
    np.testing.assert_array_equal(both.sizes(np.array([3, 23]))[1], b.sizes(np.array([3]))[0])


def test_classes_are_joined_by_name(folders: tuple[Path, Path]) -> None:
    both = mix(folders)
    assert both.classes == ("dark", "light", "bright", "dim")
    parts = [ShardSet.open(folder) for folder in folders]
    names = [part.classes[label] for part in parts for label in part.index["label"]]
    assert [both.classes[label] for label in both.index["label"]] == names


def test_sets_without_labels_have_none_in_a_mix(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plain = make_set(tmp_path / "plain", 10, [])
    both = mix([plain, folders[0]])
    assert both.classes == ("dark", "light")
    assert (both.index["label"][:10] == -1).all()
    assert set(both.index["label"][10:]) == {0, 1}
    assert [both.read(sample) for sample in (0, 10)]


def test_weights_are_fractions_as_they_were_written(folders: tuple[Path, Path]) -> None:
    assert mix(folders, 0.1, 0.2).mix.fractions == (Fraction(1, 3), Fraction(2, 3))
    assert mix(folders).mix.fractions == (Fraction(2, 5), Fraction(3, 5))


def test_the_fingerprint_is_that_of_sets_and_fractions(folders: tuple[Path, Path]) -> None:
    weighted = mix(folders, 2, 1).fingerprint
    assert mix(folders, 0.2, 0.1).fingerprint == weighted
    assert mix(folders, 2, 3).fingerprint == mix(folders).fingerprint  # their sizes
    others = {mix(folders).fingerprint, mix(folders, 1, 2).fingerprint, mix(folders[::-1], 2, 1).fingerprint}
    assert len({weighted, *others}) == 4


def test_the_place_of_a_set_does_not_matter(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = mix(folders).fingerprint
    moved = shutil.move(folders[0], tmp_path / "moved")
    assert mix([Path(moved), folders[1]]).fingerprint == before


def test_copies_keep_the_mix_and_subsets_do_not(folders: tuple[Path, Path]) -> None:
    both = mix(folders, 2, 1)
    assert both.copy().mix == both.mix
    some = both.subset(np.array([5, 25, 49]))
    assert some.mix is None
    assert some.read(1) == both.read(25)
    assert some.key(2) == both.key(49)
    assert some.folder_of(2) == folders[1]


def test_a_changed_sample_is_found_in_each_set(folders: tuple[Path, Path]) -> None:
    both = mix(folders)
    path = folders[1] / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(both.index["offset"][20]) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadSample, match="CRC differs"):
        both.read(20)
    both.read(0)


def test_one_set_in_a_list_is_that_set(folders: tuple[Path, Path]) -> None:
    alone, plain = mix(folders[:1], 3), ShardSet.open(folders[0])
    assert alone.mix is None
    assert (alone.folder, alone.fingerprint) == (plain.folder, plain.fingerprint)


def test_a_missing_set_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        mix([folders[0], tmp_path / "missing"])
    assert str(error.value).startswith(f"{tmp_path}/missing: there is no such folder")


def test_an_empty_set_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = ShardSet.open(folders[1]).subset(np.array([], int))
    full = ShardSet.open(folders[0])
    monkeypatch.setattr(ShardSet, "open", lambda place, *_, **__: empty if place == folders[1] else full)
    with pytest.raises(UserError) as error:
        mix(folders)
    assert str(error.value) == (
        f"{folders[1]}: the set has no samples\n"
        "  fix: remove it from data.train, where it is number 1 (counted from 0)"
    )


def test_shards_that_come_next_are_told_to_their_own_set(folders: tuple[Path, Path]) -> None:
    both = mix(folders, read_ahead=True)
    told: list[list[list[int]]] = [[], []]
    parts = both.files._parts  # type: ignore[union-attr]
    for part, seen in zip(parts, told, strict=True):
        part.expect = lambda upcoming, seen=seen: seen.extend(upcoming)
    both.files.expect(iter([[0, 4], [5], [2, 3, 6]]))
    assert told == [[[0], [2]], [[1], [2], [0, 3]]]


def test_validation_labels_count_through_the_classes_of_the_mix(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    both, alone = mix(folders), ShardSet.open(folders[0])
    validation = ShardSet.open(folders[1])
    shown = with_classes_of(validation, both)
    assert shown.classes == both.classes
    names = [both.classes[label] for label in shown.index["label"]]
    assert names == [validation.classes[label] for label in validation.index["label"]]
    assert shown.read(3) == validation.read(3)
    assert shown.copy().classes == both.classes
    assert shown.fingerprint == validation.fingerprint
    assert with_classes_of(validation, alone) is validation
    other = ShardSet.open(make_set(tmp_path / "other", 10, ["dark", "odd"]))
    assert with_classes_of(other, both) is other
