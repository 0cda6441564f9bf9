import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_sets import make_set

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.build.rewrite import open_different, output_folder, split
from data_pipelines.errors import UserError
from data_pipelines.inspect.verify import verify
from data_pipelines.shards.index import read_quarantine
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder
from data_pipelines.sources.indexed_sets import list_sets

OPTIONS = BuildOptions(shard_samples=7, decode=False)
names_of_classes = st.lists(st.sampled_from(["dark", "light", "dim", "red"]), unique=True, max_size=4)
"""Without names, a set has no labels."""


def samples(*folders: Path) -> Counter[tuple[bytes, str]]:
    """How often each image comes with each class."""
    found: Counter[tuple[bytes, str]] = Counter()
    for folder in folders:
        shards = ShardSet.open(folder)
        for sample, label in enumerate(shards.index["label"].tolist()):
            found[shards.read(sample), shards.classes[label] if label >= 0 else ""] += 1
    return found


def keys(folder: Path) -> list[str]:
    shards = ShardSet.open(folder)
    return sorted(shards.key(sample).partition(".tar/")[2] for sample in range(len(shards)))


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 30),
    classes=names_of_classes,
    shard_samples=st.integers(1, 40),
    shard_bytes=st.integers(2_000, 40_000),
    seed=st.integers(0, 99),
)
def test_a_reshard_has_every_sample_once(
    count: int, classes: Sequence[str], shard_samples: int, shard_bytes: int, seed: int
) -> None:
    with TemporaryDirectory() as name:
        before, after = make_set(Path(name) / "before", count, classes), Path(name) / "after"
        source = list_sets([ShardSet.open(before)])
        record = build(source, after, BuildOptions(shard_bytes, shard_samples, seed, decode=False))
        assert samples(after) == samples(before)
        assert keys(after) == keys(before)
        assert record.classes == ShardSet.open(before).classes
        assert all(shard.samples <= shard_samples for shard in record.shards)
        assert all(shard.size <= shard_bytes or shard.samples == 1 for shard in record.shards)
        assert not any(shard.bad for shard in verify(after, decode=True))


@settings(deadline=None, max_examples=15)
@given(
    sets=st.lists(
        st.tuples(st.integers(1, 20), names_of_classes), min_size=2, max_size=4, unique_by=lambda one: one[0]
    ),
    seed=st.integers(0, 99),
)
def test_a_merge_has_every_sample_of_all_sets_once(
    sets: Sequence[tuple[int, Sequence[str]]], seed: int
) -> None:
    with TemporaryDirectory() as name:
        before = [make_set(Path(name) / str(count), count, classes) for count, classes in sets]
        after = Path(name) / "after"
        build(list_sets(open_different([*map(str, before)])), after, OPTIONS._replace(seed=seed))
        assert samples(after) == samples(*before)
        assert len(set(keys(after))) == len(keys(after))
        assert list(ShardSet.open(after).classes) == [*dict.fromkeys(c for _, names in sets for c in names)]


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(3, 40),
    classes=names_of_classes,
    fraction=st.fractions(Fraction(1, 4), Fraction(3, 4), max_denominator=50),
    seed=st.integers(0, 99),
)
def test_a_split_has_every_sample_in_one_part(
    count: int, classes: Sequence[str], fraction: Fraction, seed: int
) -> None:
    with TemporaryDirectory() as name:
        before = make_set(Path(name) / "before", count, classes)
        source = list_sets([ShardSet.open(before)])
        parts = split(source, fraction=fraction, per_class=None, seed=seed, where=before)
        for part, items in parts.items():
            build(items, Path(name) / part, OPTIONS)
        train, validation = Path(name) / "train", Path(name) / "validation"
        assert samples(train) + samples(validation) == samples(before)
        assert sorted(keys(train) + keys(validation)) == keys(before)
        assert ShardSet.open(train).classes == ShardSet.open(validation).classes == source.classes
        assert 2 * abs(len(ShardSet.open(validation)) - fraction * count) <= 1


def test_a_number_of_each_class(tmp_path: Path) -> None:
    source = list_sets([ShardSet.open(make_set(tmp_path / "set", 30, ["a", "b", "c"]))])
    parts = split(source, fraction=None, per_class=4, seed=0, where="set")
    found = [Counter(item.label for item in part.items) for part in parts.values()]
    assert found == [{0: 6, 1: 6, 2: 6}, {0: 4, 1: 4, 2: 4}]


def test_changed_samples_are_quarantined(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    shards = ShardSet.open(folder)
    path = folder / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(shards.index["offset"][9]) + 20] ^= 1
    path.write_bytes(data)
    record = build(list_sets([shards]), tmp_path / "out", OPTIONS)
    assert (record.samples, record.quarantined) == (19, 1)
    (entry,) = read_quarantine(tmp_path / "out")
    assert entry["key"] == shards.key(9).partition(".tar/")[2]
    assert entry["reason"] == "CRC differs from the index"


def test_classes_that_a_part_lacks_are_told(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", 11, [f"class {number}" for number in range(10)])
    source = list_sets([ShardSet.open(folder)])
    parts = split(source, fraction=Fraction(1, 2), per_class=None, seed=0, where=folder)
    train, validation = ({item.label for item in part.items} for part in parts.values())
    assert {note.partition(" part: ")[0] for note in parts["train"].notes} == {
        f"{10 - len(part)} classes have too few samples for a place in the {name}"
        for name, part in (("train", train), ("validation", validation))
    }
    assert parts["validation"].notes == ()


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (["a", "b"], {"fraction": Fraction(1, 1000)}, "leaves the validation part empty"),
        (["a", "b"], {"fraction": Fraction(999, 1000)}, "leaves the train part empty"),
        (["a", "b"], {"per_class": 10}, "no training sample of class 'a', which has 10, and 1 other class"),
        ([str(number) for number in range(20)], {"per_class": 1}, "which has 1, and 19 other classes"),
        ([], {"per_class": 1}, "the set has no labels"),
    ],
)
def test_splits_that_leave_a_part_empty(
    tmp_path: Path, classes: list[str], options: dict[str, object], message: str
) -> None:
    source = list_sets([ShardSet.open(make_set(tmp_path / "set", 20, classes))])
    with pytest.raises(UserError, match=message):
        split(source, **({"fraction": None, "per_class": None} | options), seed=0, where="set")  # type: ignore[arg-type]


def test_a_merge_needs_different_sets(tmp_path: Path) -> None:
    folder = str(make_set(tmp_path / "set"))
    with pytest.raises(UserError, match="two sets or more"):
        open_different([folder])
    with pytest.raises(UserError, match="each would come twice"):
        open_different([folder, folder + "/"])


def test_the_output_lies_apart_from_what_is_read(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "sets" / "train")
    shards = ShardSet.open(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "validation").symlink_to(folder)
    for out, parts in (
        (folder, [""]),
        (link, [""]),
        (folder / "new", [""]),
        (link / "deep" / "new", [""]),
        (tmp_path / "sets", [""]),
        (tmp_path / "sets", ["train", "validation"]),
        (tmp_path / "linked", ["train", "validation"]),
        (folder / "new", ["train", "validation"]),
    ):
        with pytest.raises(UserError, match="the output would lie"):
            output_folder(str(out), [shards], parts)
    assert output_folder(str(tmp_path / "sets"), [shards], ["new"]) == tmp_path / "sets"
    assert output_folder(str(tmp_path / "sets" / "train2"), [shards])
    with pytest.raises(UserError, match="local folders only"):
        output_folder("s3://bucket/out", [shards])
    with pytest.raises(UserError, match="is a file"):
        output_folder(str(folder / "dataset.json"), [shards])


def test_the_output_is_not_where_the_shards_are_linked_from(tmp_path: Path) -> None:
    stored, links = make_set(tmp_path / "stored"), tmp_path / "links"
    links.mkdir()
    for path in stored.glob("*.tar"):
        (links / path.name).symlink_to(path)
    index_folder(links)
    with pytest.raises(UserError, match="the output would lie"):
        output_folder(str(stored), [ShardSet.open(links)])


def test_the_record_of_a_reshard_is_that_of_its_shards(tmp_path: Path) -> None:
    build(list_sets([ShardSet.open(make_set(tmp_path / "set"))]), tmp_path / "out", OPTIONS)
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [samples for _, _, samples in record["shards"]] == [7, 7, 6]
