from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_sets import make_set
from PIL import Image

from data_pipelines.build.builder import build
from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards, with_classes_of
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import open_source


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Thirty samples of three classes, one of them also in `whole_set`."""
    return make_set(tmp_path / "other", 30, ["cat", "dog", "eel"])


def opened(train: Any, **changes: Any) -> ShardSet:
    return open_train_shards(DataSettings.model_validate({"train": train} | changes))


def names(shards: ShardSet) -> list[str]:
    return [shards.classes[label] for label in shards.index["label"]]


def refused(train: Any, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        opened(train, **changes)
    return str(error.value)


def test_only_samples_of_the_classes_are_left(whole_set: Path, shards: ShardSet) -> None:
    part = opened(whole_set, classes=["cat", "ant"])
    assert (part.classes, len(part)) == (("ant", "cat"), 60)
    assert names(part) == [name for name in names(shards) if name != "bee"]
    kept = [sample for sample, name in enumerate(names(shards)) if name != "bee"]
    assert [part.read(sample) for sample in (0, 40)] == [shards.read(kept[sample]) for sample in (0, 40)]
    assert part.key(40) == shards.key(kept[40])
    assert sum(part.shard_sizes) == 60
    assert part.fingerprint != shards.fingerprint


def test_all_classes_are_the_whole_set(whole_set: Path, shards: ShardSet) -> None:
    assert opened(whole_set, classes=["ant", "bee", "cat"]).fingerprint == shards.fingerprint


@pytest.mark.parametrize("count", [1, 3, 31, 89])
def test_a_number_of_samples_is_balanced_over_the_classes(
    whole_set: Path, shards: ShardSet, count: int
) -> None:
    part = opened(whole_set, max_samples=count)
    assert len(part) == count
    assert np.ptp(np.bincount(part.index["label"], minlength=3)) <= 1
    assert part.fingerprint != shards.fingerprint
    keys = {part.key(sample) for sample in range(count)}
    larger = opened(whole_set, max_samples=count + 1)
    assert keys <= {larger.key(sample) for sample in range(len(larger))}


def test_more_samples_than_there_are_is_the_whole_set(whole_set: Path, shards: ShardSet) -> None:
    assert opened(whole_set, max_samples=90).fingerprint == shards.fingerprint
    assert len(opened(whole_set, max_samples=1000)) == 90


def test_smaller_images_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    sizes = [(20, 90), (64, 64), (90, 63), (300, 200)]
    images = tmp_path / "images" / "a"
    images.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(images / f"{number}.png")
    build(open_source(images.parent), folder)
    whole = ShardSet.open(folder)
    part = opened(folder, min_side=64)
    assert sorted(part.sizes(np.arange(2)).tolist()) == [[64, 64], [200, 300]]
    kept = {part.key(sample): part.read(sample) for sample in range(2)}
    assert kept.items() <= {whole.key(sample): whole.read(sample) for sample in range(4)}.items()
    assert opened(folder, min_side=20).fingerprint == whole.fingerprint
    assert len(opened(folder, min_side=64, max_samples=1)) == 1
    said = refused(folder, min_side=201)
    assert "data.min_side=201 leaves no samples" in said
    assert "200 pixels" in said


def test_classes_and_a_number_go_together(whole_set: Path) -> None:
    part = opened(whole_set, classes=["bee", "cat"], max_samples=11)
    assert sorted(np.bincount(part.index["label"]).tolist()) == [5, 6]


def test_in_a_mix_each_set_keeps_its_classes_and_its_fraction(whole_set: Path, other: Path) -> None:
    train = [{"path": whole_set, "weight": 3}, {"path": other, "weight": 1}]
    mixed = opened(train, classes=["bee", "dog", "cat"], max_samples=20)
    assert mixed.classes == ("bee", "cat", "dog")
    assert len(mixed) == 20
    first = [mixed.folder_of(sample) == whole_set for sample in range(20)]
    assert sum(first) == 15
    assert set(names(mixed)[:15]) == {"bee", "cat"}
    assert set(names(mixed)[15:]) == {"cat", "dog"}
    assert [mixed.read(sample) for sample in (0, 19)]


def test_a_small_set_keeps_all_its_samples_in_a_mix(whole_set: Path, other: Path) -> None:
    train = [{"path": whole_set, "weight": 1}, {"path": other, "weight": 1}]
    assert len(opened(train, max_samples=100)) == 50 + 30


def test_the_validation_set_is_restricted_to_the_same_classes(whole_set: Path, other: Path) -> None:
    train = opened(whole_set, classes=["bee", "cat"])
    validation = with_classes_of(ShardSet.open(whole_set), train, ["bee", "cat"])
    assert validation.classes == train.classes
    assert set(names(validation)) == {"bee", "cat"}
    some = with_classes_of(ShardSet.open(other), train, ["bee", "cat"])
    assert (some.classes, set(names(some)), len(some)) == (("bee", "cat"), {"cat"}, 10)
    assert some.read(3)
    with pytest.raises(UserError, match=r"the set has no samples of the classes in data.classes \(bee\)"):
        with_classes_of(ShardSet.open(other), opened(whole_set, classes=["bee"]), ["bee"])


def test_an_unknown_class_is_named_with_the_nearest(whole_set: Path, other: Path) -> None:
    assert refused(whole_set, classes=["bee", "bea"]) == (
        f"data.classes: {whole_set} has no class 'bea'; did you mean bee?\n  fix: use ant, bee, cat"
    )
    said = refused([whole_set, other], classes=["zebra"])
    assert f"{whole_set} and {other} have no class 'zebra'\n  fix: use ant, bee, cat, dog, eel" in said


def test_long_lists_of_classes_are_not_printed(tmp_path: Path) -> None:
    many = make_set(tmp_path / "many", 25, [f"class {number}" for number in range(25)])
    assert "fix: use a name in classes.txt of the set" in refused(many, classes=["zebra"])


def test_a_set_without_any_of_the_classes_is_named(whole_set: Path, other: Path) -> None:
    said = refused([whole_set, other], classes=["bee"])
    assert said.startswith(f"{other}: the set has no samples of the classes in data.classes (bee)")


def test_unlabeled_sets_have_no_classes(tmp_path: Path) -> None:
    plain = make_set(tmp_path / "plain", 10, [])
    assert (
        refused(plain, classes=["bee"]) == f"data.classes: {plain} has no labels\n  fix: remove data.classes"
    )
    assert len(opened(plain, max_samples=4)) == 4


def test_a_number_that_leaves_nothing_of_a_set_is_refused(whole_set: Path, other: Path) -> None:
    train = [{"path": whole_set, "weight": 100}, {"path": other, "weight": 1}]
    said = refused(train, max_samples=10)
    assert said.startswith(f"{other}: data.max_samples leaves no samples of this set")
