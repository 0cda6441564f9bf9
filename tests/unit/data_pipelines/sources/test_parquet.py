import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.errors import UserError
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources import parquet as module
from data_pipelines.sources.image_sources import LabelOptions, Source
from data_pipelines.sources.parquet import open_parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any] | None = None,
    *,
    names: Sequence[str] = (),
    plain: bool = False,
    group: int = 4,
    columns: tuple[str, str] = ("image", "label"),
) -> Path:
    """A file as `datasets` writes it, with so many rows a group."""
    image, label = columns
    cells = (
        pa.array(images, pa.binary())
        if plain
        else pa.array([{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(images)], STRUCT)
    )
    table = pa.table({"id": pa.array(range(len(images))), image: cells})
    features: dict[str, Any] = {image: {"_type": "Image"}}
    if labels is not None:
        table = table.append_column(label, pa.array(labels))
        features[label] = {"_type": "ClassLabel", "names": list(names)}
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def images(count: int, start: int = 0) -> list[bytes]:
    return [b"image %d" % (start + number) * 50 for number in range(count)]


def content(source: Source) -> list[tuple[str, bytes]]:
    return [(source.classes[item.label] if item.label >= 0 else "", item.read()) for item in source.items]


def test_splits_by_name_share_the_names_of_the_schema(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat")
    write(tmp_path / "train-00000-of-00002.parquet", images(9), [0, 1, 0, 1, 0, 1, 0, 1, 0], names=names)
    write(tmp_path / "train-00001-of-00002-abc.parquet", images(3, 9), [2, 2, 2], names=names)
    write(tmp_path / "validation-00000-of-00001.parquet", images(2, 12), [2, 0], names=names)
    write(tmp_path / "test.parquet", images(1, 14), [-1], names=names)
    splits = open_parquet(tmp_path)
    assert list(splits) == ["test", "train", "validation"]
    assert {source.classes for source in splits.values()} == {names}
    expected = ["ant", "bee"] * 4 + ["ant"] + ["cat"] * 3
    assert content(splits["train"]) == list(zip(expected, images(12), strict=True))
    assert content(splits["validation"]) == list(zip(["cat", "ant"], images(2, 12), strict=True))
    assert content(splits["test"]) == [("", images(1, 14)[0])]
    assert splits["train"].runs == (4, 4, 1, 3)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(["dog", "ant", None], ("ant", "dog")), ([3, 10, -1], ("3", "10")), (None, ())],
)
def test_labels_without_names_are_numbered_by_value(
    tmp_path: Path, labels: list[Any] | None, classes: tuple[str, ...]
) -> None:
    path = write(tmp_path / "0000.parquet", images(3), labels, plain=True, columns=("img", "fine_label"))
    source = open_parquet(path)[""]
    assert source.classes == classes
    wanted = [str(label) if label not in (None, -1) else "" for label in labels or [None] * 3]
    assert content(source) == list(zip(wanted, images(3), strict=True))


def test_one_split_alone_and_files_without_split(tmp_path: Path) -> None:
    write(tmp_path / "one" / "train-00000-of-00001.parquet", images(1))
    write(tmp_path / "two" / "0000.parquet", images(1))
    write(tmp_path / "two" / "0001.parquet", images(2))
    assert [list(open_parquet(tmp_path / name)) for name in ("one", "two")] == [[""], [""]]
    keys = [item.key for item in open_parquet(tmp_path / "two")[""].items]
    assert keys == ["0000-000000", "0001-000000", "0001-000001"]


def test_an_empty_cell_is_an_empty_image(tmp_path: Path) -> None:
    source = open_parquet(write(tmp_path / "a.parquet", [b"one", None]))[""]
    assert [item.read() for item in source.items] == [b"one", b""]
    rows = pa.array([None, {"bytes": b"two", "path": ""}], STRUCT)
    pq.write_table(pa.table({"image": rows}), tmp_path / "b.parquet")
    assert [item.read() for item in open_parquet(tmp_path / "b.parquet")[""].items] == [b"", b"two"]


def test_rows_can_be_read_in_any_order(tmp_path: Path) -> None:
    source = open_parquet(write(tmp_path / "a.parquet", images(50), group=40))[""]
    for number in (3, 39, 2, 45, 45, 0, 17, 18):
        assert source.items[number].read() == images(50)[number]


def test_a_build_reads_each_row_group_once_or_at_the_seam_of_shards_twice(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = source.items
    path = write(
        tmp_path / "in.parquet", [item.read() for item in ours], [item.label for item in ours], group=8
    )
    opened: list[int] = []
    cursor = module._Cursor
    monkeypatch.setattr(module, "_Cursor", lambda path, group: opened.append(group) or cursor(path, group))
    listed = open_parquet(path)[""]
    module._cursor.cache_clear()
    record = build(listed, tmp_path / "out", BuildOptions(shard_samples=20))
    sample, groups = 12, 12
    assert len(opened) <= sample + groups + len(record.shards)
    shards = ShardSet.open(tmp_path / "out")
    assert sorted(shards.read(number) for number in range(90)) == sorted(item.read() for item in ours)
    labels = {item.read(): item.label for item in ours}
    assert all(labels[shards.read(number)] == shards.index["label"][number] for number in range(90))
    assert len(set(shards.index["label"][:20].tolist())) > 1, "row groups are mixed"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_row_group_is_left_out(source: Source, tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "in.parquet", [item.read() for item in source.items], group=10)
    column = pq.ParquetFile(path).metadata.row_group(3).column(1)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    record = build(open_parquet(path)[""], tmp_path / "out", workers=workers)
    assert (record.samples, record.quarantined) == (80, 10)


def test_a_file_that_vanished_is_an_error_of_its_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", images(1))
    source = open_parquet(path)[""]
    path.unlink()
    module._cursor.cache_clear()
    with pytest.raises(FileNotFoundError):  # which stops a build
        source.items[0].read()


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"left": images(1), "right": images(1)}), path)
    with pytest.raises(
        UserError,
        match=r"no column `image` of encoded images. Its columns: left \(binary\), right \(binary\)",
    ):
        open_parquet(path)
    pq.write_table(pa.table({"image": ["1.jpg"]}), path)
    with pytest.raises(UserError, match=r"Its columns: image \(string\)"):
        open_parquet(path)
    with pytest.raises(UserError, match="the column 'label' holds list"):
        open_parquet(write(tmp_path / "b.parquet", images(1), [[1, 2]]))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", images(1), [0], names=["ant"])
    write(tmp_path / "b.parquet", images(1), [0], names=["bee"])
    with pytest.raises(UserError, match=r"have different class names than 'a\.parquet'"):
        open_parquet(tmp_path)
    write(tmp_path / "b.parquet", images(1), [1], names=["ant"])
    with pytest.raises(UserError, match="the label 1 is outside the 1 classes"):
        open_parquet(tmp_path)
    write(tmp_path / "a.parquet", images(1), ["ant"])
    write(tmp_path / "b.parquet", images(1), [1])
    with pytest.raises(UserError, match="numbers in some files and strings in others"):
        open_parquet(tmp_path)
    (tmp_path / "a.parquet").rename(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"some file names contain a split, but 'b\.parquet' does not"):
        open_parquet(tmp_path)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", images(9))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="the Parquet file cannot be read"):
        open_parquet(path)


def test_a_missing_pyarrow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", images(1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        open_parquet(path)


def table(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images(3), **columns}), path)
    return path


@pytest.mark.parametrize("name", ["labels", "target", "cls"])
@pytest.mark.parametrize("values", [[2, 0, 2], [2.0, 0.0, 2.0], [[0, 0, 1], [1, 0, 0], [0, 0, 1]]])
def test_other_names_and_forms_of_labels(tmp_path: Path, name: str, values: list[object]) -> None:
    source = open_parquet(table(tmp_path / "a.parquet", **{name: values}))[""]
    assert [item.label for item in source.items] == [1, 0, 1]
    assert (source.classes, source.notes) == (("0", "2"), ())


def test_a_column_by_its_name(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", target=[0, 0, 0], cls=[1, 1, 1], kind=["b", "a", "b"])
    with pytest.raises(UserError, match="several columns could hold the labels: target, cls"):
        open_parquet(path)
    source = open_parquet(path, options=LabelOptions(column="kind"))[""]
    assert (source.classes, [item.label for item in source.items]) == (("a", "b"), [1, 0, 1])
    with pytest.raises(UserError, match=r"no column 'kinds'. Its columns: image \(binary\), target"):
        open_parquet(path, options=LabelOptions(column="kinds"))


def test_images_without_labels_name_the_other_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", caption=["x", "y", "z"])
    (note,) = open_parquet(path)[""].notes
    assert note.startswith("a.parquet has no column of labels. Looked for label, fine_label, labels")
    assert "It has caption. If one of these holds labels, use --label-column NAME" in note
    assert open_parquet(path, options=LabelOptions(enabled=False))[""].notes == ()
    assert open_parquet(table(tmp_path / "b.parquet"))[""].notes == ()


def test_numbers_as_text_are_doubted_or_sorted_by_value(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", label=["10", "9", "10"])
    source = open_parquet(path)[""]
    assert source.classes == ("10", "9")
    assert "--numeric-classes" in source.notes[0]
    source = open_parquet(path, options=LabelOptions(numeric=True))[""]
    assert (source.classes, source.notes) == (("9", "10"), ())


def test_classes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("cat\nant\nbee\n")
    options = LabelOptions(classes=tmp_path / "names")
    source = open_parquet(table(tmp_path / "a.parquet", label=["bee", "cat", "bee"]), options=options)[""]
    assert (source.classes, [item.label for item in source.items]) == (("cat", "ant", "bee"), [2, 0, 2])
    source = open_parquet(table(tmp_path / "a.parquet", label=[1, 0, 1]), options=options)[""]
    assert (source.classes, [item.label for item in source.items]) == (("cat", "ant", "bee"), [1, 0, 1])
    with pytest.raises(UserError, match="the label 'owl' is not among the class names"):
        open_parquet(table(tmp_path / "a.parquet", label=["owl", "cat", "bee"]), options=options)
