"""What `data build` makes of a path."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.image_sources import LabelOptions
from data_pipelines.sources.items import Source
from data_pipelines.sources.kinds import open_parts


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def shard(path: Path, labels: Mapping[str, object], suffix: str = "cls") -> Path:
    members = {}
    for key, label in labels.items():
        members[f"{key}.jpg"] = key.encode()
        members[f"{key}.{suffix}"] = str(label).encode()
    return pack(path, members)


def labels(source: Source) -> dict[str, str]:
    return {
        item.read().decode(): source.classes[item.label] if item.label >= 0 else "" for item in source.items
    }


def opened(path: Path, **options: object) -> Source:
    return open_parts(str(path), LabelOptions(**options))[""]  # type: ignore[arg-type]


def test_shards_keep_their_labels(tmp_path: Path) -> None:
    shard(tmp_path / "b.tar", {"3": 2})
    path = shard(tmp_path / "a.tar", {"1": 1, "2": 0})
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7")
    source = opened(tmp_path)
    assert (labels(source), source.classes) == ({"1": "1", "2": "0", "3": "2"}, ("0", "1", "2"))
    assert labels(opened(path)) == {"1": "1", "2": "0"}
    assert labels(opened(path, enabled=False)) == {"1": "", "2": ""}
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert labels(opened(tmp_path)) == {"1": "bee", "2": "ant", "3": "cat"}


def test_labels_of_shards_in_json_and_by_name(tmp_path: Path) -> None:
    members = {
        f"{n}.{suffix}": data
        for n in (0, 1)
        for suffix, data in (
            ("tif", b"%d" % n),
            ("json", json.dumps({"label": f"c{n}", "genus": 7}).encode()),
        )
    }
    pack(tmp_path / "a.tar", members)
    assert labels(opened(tmp_path)) == {"0": "c0", "1": "c1"}
    assert labels(opened(tmp_path, column="genus")) == {"0": "7", "1": "7"}
    (tmp_path / "names").write_text("c1\nc0\n")
    assert opened(tmp_path, classes=tmp_path / "names").classes == ("c1", "c0")


def test_shards_of_several_splits_share_their_classes(tmp_path: Path) -> None:
    shard(tmp_path / "set-train-000000.tar", {"1": "owl", "2": "ant"})
    shard(tmp_path / "set-train-000001.tar", {"3": "bee"})
    shard(tmp_path / "set-val-000000.tar", {"4": "owl"})
    parts = open_parts(str(tmp_path), LabelOptions())
    assert {split: labels(source) for split, source in parts.items()} == {
        "train": {"1": "owl", "2": "ant", "3": "bee"},
        "val": {"4": "owl"},
    }
    assert {source.classes for source in parts.values()} == {("ant", "bee", "owl")}


def test_samples_without_an_image_are_counted(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"0.jpg": b"0", "0.cls": b"0", "1.mp4": b"", "1.cls": b"0"})
    assert opened(tmp_path).notes == (
        "1 sample has no image and was left out. Their members: .cls 1, .mp4 1",
    )
    pack(tmp_path / "a.tar", {f"n1.{n}.{suffix}": b"0" for n in range(3) for suffix in ("jpg", "cls")})
    with pytest.raises(
        UserError, match=r"no images. Their members: .cls 3, .jpg 3\n  fix: a key ends at the first dot"
    ):
        opened(tmp_path)


def test_a_folder_of_tars_with_one_class_each(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        pack(
            tmp_path / "imagenet" / f"{name}.tar", {f"{name}_{n}.JPEG": f"{name}{n}".encode() for n in (1, 2)}
        )
        pack(tmp_path / "own" / f"{name[0]}{'xy'[name == 'n01']}.tar", {"1.bmp": name.encode()})
    assert labels(opened(tmp_path / "imagenet")) == {
        "n011": "n01",
        "n012": "n01",
        "n021": "n02",
        "n022": "n02",
    }
    assert labels(opened(tmp_path / "own")) == {"n01": "ny", "n02": "nx"}


def test_tars_that_could_be_shards_or_classes_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        pack(tmp_path / f"{number:05d}.tar", {f"{number}{n}.jpg": b"%d%d" % (number, n) for n in range(2)})
    with pytest.raises(UserError, match=r"one class each, or shards without labels[\s\S]*--no-labels"):
        opened(tmp_path)
    assert labels(opened(tmp_path, enabled=False)) == {"00": "", "01": "", "10": "", "11": ""}
    (tmp_path / "names.csv").write_text("00.jpg,a\n01.jpg,b\n10.jpg,a\n11.jpg,b\n")
    assert labels(opened(tmp_path, file=tmp_path / "names.csv")) == {
        "00": "a",
        "01": "b",
        "10": "a",
        "11": "b",
    }


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"1": 1})
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 tar is compressed, such as 'b\.tar\.gz'"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"the tar is compressed\n.*gunzip"):
        opened(tmp_path / "b.tar.gz")


def parquet(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [path.name.encode()], "label": [label]}), path)


@pytest.mark.parametrize("form", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet"])
def test_the_root_of_a_repository_of_hugging_face(tmp_path: Path, form: str) -> None:
    files(tmp_path, "README.md", ".gitattributes", "assets/1.png")
    for number, split in enumerate(("train", "test")):
        parquet(tmp_path / form.format(split), number)
    parts = open_parts(str(tmp_path), LabelOptions())
    assert {split: [item.label for item in part.items] for split, part in parts.items()} == {
        "train": [0],
        "test": [1],
    }


def test_several_sets_in_a_repository_are_refused(tmp_path: Path) -> None:
    files(tmp_path, "README.md")
    for name in ("de", "en"):
        parquet(tmp_path / name / "train-00000-of-00001.parquet", 0)
    with pytest.raises(
        UserError, match=r"several sets, such as .*de and .*en\n  fix: .*all4one data build .*de OUT"
    ):
        opened(tmp_path)


def test_a_table_beside_class_folders_does_not_count(tmp_path: Path) -> None:
    files(tmp_path, "README.md", *(f"ant/{n}.jpg" for n in range(9)), "bee/1.jpg")
    for path in tmp_path.glob("*/*.jpg"):
        path.write_bytes(bytes(1000))
    parquet(tmp_path / "bee" / "meta.parquet", 0)
    assert opened(tmp_path).classes == ("ant", "bee")


def test_bare_images_of_all_formats_and_the_rest_by_suffix(tmp_path: Path) -> None:
    names = ("1.jpg", "2.JPE", "3.jfif", "4.bmp", "5.tif", "6.gif", "7.avif", "8.webp", "9.PNG")
    source = opened(files(tmp_path, *names, "a.txt", "b.TXT", "c.mp4", "d", ".hidden.jpg"))
    assert sorted(item.read().decode() for item in source.items) == sorted(names)
    assert source.notes == ("skipped 4 other files: .txt 2, .mp4 1, no suffix 1",)
    assert {item.key for item in source.items if not item.size_is_exact} == {"4", "5", "6", "7"}
    with pytest.raises(UserError, match=r"no images, but 2 other files: \.pdf 1, \.txt 1"):
        opened(files(tmp_path / "empty", "1.txt", "2.pdf"))


def test_other_files_in_class_folders_are_named(tmp_path: Path) -> None:
    source = opened(files(tmp_path, "ant/1.jpg", "bee/1.jpg", "bee/boxes.txt", "bee/2.bmp"))
    assert len(source.items) == 4
    assert source.notes == (
        "1 files in class folders have no image suffix: .txt 1. Those that are no images are left out",
    )


def test_a_class_folder_with_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"bar"):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        (folder / "1.jpg").write_bytes(name)
    source = opened(tmp_path)
    assert source.classes == ("bar", "caf\\xe9")
    assert [item.read() for item in source.items] == [b"bar", b"caf\xe9"]
    assert all(item.key.isascii() for item in source.items)


def test_parts_of_a_data_set_are_not_its_classes(tmp_path: Path) -> None:
    source = opened(files(tmp_path, "train/ant/1.jpg", "train/bee/1.jpg", "val/ant/1.jpg"))
    assert source.classes == ("train", "val")
    (note,) = source.notes
    assert "look like parts of a data set" in note
    assert (
        f"`all4one data build {tmp_path}/train OUT/train`, `all4one data build {tmp_path}/val OUT/val`"
        in note
    )


def test_one_folder_of_images_is_doubted(tmp_path: Path) -> None:
    val = files(tmp_path / "val", "images/val_0.JPEG", "images/val_1.JPEG")
    assert opened(val).notes[0].endswith(f"`all4one data build {val} OUT --no-labels`")
    table = val / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\n")
    assert opened(val).notes[-1].endswith(f"`all4one data build {val} OUT --labels {table}`")
    assert (
        opened(val / "images").notes[-1].endswith(f"`all4one data build {val}/images OUT --labels {table}`")
    )
    for source in (opened(val, file=table), opened(val / "images", file=table)):
        assert labels(source) == {"images/val_0.JPEG": "n02", "images/val_1.JPEG": "n01"}
        assert source.notes in ((), ("skipped 1 other files: .txt 1",))
    assert opened(val, enabled=False).classes == ()


def test_classes_below_one_folder_are_doubted(tmp_path: Path) -> None:
    source = opened(files(tmp_path, "train/ant/1.jpg", "train/bee/1.jpg"))
    assert source.notes[0].endswith(
        f"If its folders are the classes: `all4one data build {tmp_path}/train OUT`"
    )


def test_numbers_as_class_folders(tmp_path: Path) -> None:
    files(tmp_path, *(f"{number}/1.jpg" for number in range(12)))
    source = opened(tmp_path)
    assert source.classes[:3] == ("0", "1", "10"), "the order of earlier versions"
    assert "--numeric-classes" in source.notes[0]
    source = opened(tmp_path, numeric=True)
    assert source.classes == tuple(map(str, range(12)))
    assert source.notes == ()
    files(tmp_path / "padded", *(f"{number:02d}/1.jpg" for number in range(12)))
    assert opened(tmp_path / "padded").notes == ()


def test_classes_from_a_file(tmp_path: Path) -> None:
    files(tmp_path / "set", "owl/1.jpg", "ant/1.jpg")
    names = tmp_path / "names"
    names.write_text("owl\nbee\nant\n")
    source = opened(tmp_path / "set", classes=names)
    assert source.classes == ("owl", "bee", "ant")
    assert labels(source) == {"owl/1.jpg": "owl", "ant/1.jpg": "ant"}
    names.write_text("owl\n")
    with pytest.raises(UserError, match="1 class of the source is not in the file, such as 'ant'"):
        opened(tmp_path / "set", classes=names)
    for content, message in (("", "contains no class names"), ("a\na\n", "'a' is named twice")):
        names.write_text(content)
        with pytest.raises(UserError, match=message):
            opened(tmp_path / "set", classes=names)


@pytest.mark.parametrize(
    "options", [{"file": Path("x")}, {"column": "x"}, {"classes": Path("x")}, {"numeric": True}]
)
def test_sets_with_their_own_labels_take_no_others(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="contains its own labels"):
        open_parts("digits", LabelOptions(**options))  # type: ignore[arg-type]


def test_labels_of_any_source_can_be_left_out() -> None:
    for source in open_parts("digits", LabelOptions(enabled=False)).values():
        assert source.classes == ()
        assert {item.label for item in source.items} == {-1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": Path("x"), "enabled": False}, "--labels and --no-labels exclude each other"),
        ({"classes": Path("x"), "enabled": False}, "--classes and --no-labels exclude each other"),
        ({"classes": Path("x"), "numeric": True}, "--classes and --numeric-classes exclude each other"),
        ({"column": "x"}, "the source has no columns or fields of labels"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(files(tmp_path, "ant/1.jpg", "bee/1.jpg"), **options)
