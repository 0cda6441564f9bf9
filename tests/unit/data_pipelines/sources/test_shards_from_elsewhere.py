"""Shards as other programs pack them: nothing may vanish without a word."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards.index import read_quarantine
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder

Names = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def images(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> list[bytes]:
    return [encode(picture(number), "JPEG") for number in range(4)]


def pack(path: Path, files: Names, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", encoding=encoding, format=tarfile.GNU_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pairs(images: list[bytes], form: str = "{}", suffix: str = "cls") -> Names:
    return [
        entry
        for number, image in enumerate(images)
        for entry in (
            (f"{form.format(number)}.jpg", image),
            (f"{form.format(number)}.{suffix}", b"%d" % number),
        )
    ]


def indexed(folder: Path, **options: object) -> tuple[dict[str, int], list[str]]:
    """Label by key, and the warnings."""
    warnings: list[str] = []
    index_folder(folder, warn=warnings.append, **options)  # type: ignore[arg-type]
    shards = ShardSet.open(folder)
    labels = {shards.key(i): int(shards.index["label"][i]) for i in range(len(shards))}
    for sample in range(len(shards)):
        shards.read(sample)
    return labels, warnings


EXPECTED = {f"a.tar/{number}": number for number in range(4)}


def test_files_of_macos_are_skipped_and_counted(tmp_path: Path, images: list[bytes]) -> None:
    files = [
        entry for name, data in pairs(images) for entry in ((f"./._{name}", b"\0\5"), (f"./{name}", data))
    ]
    pack(tmp_path / "a.tar", [*files, ("__MACOSX/0.jpg", b"\0")])
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7")
    labels, warnings = indexed(tmp_path)
    assert {key.replace("/./", "/"): label for key, label in labels.items()} == EXPECTED
    assert warnings == ["9 hidden members were skipped, such as the ._NAME of macOS"]


def test_members_that_lie_apart_are_joined(tmp_path: Path, images: list[bytes]) -> None:
    files = sorted(pairs(images), key=lambda entry: entry[0].endswith("cls"))
    pack(tmp_path / "a.tar", files)
    assert indexed(tmp_path) == (EXPECTED, [])
    pack(tmp_path / "a.tar", sorted(files, key=lambda entry: entry[0].endswith("jpg")))
    assert indexed(tmp_path) == (EXPECTED, [])


def test_complete_samples_with_the_same_key_are_all_kept(tmp_path: Path, images: list[bytes]) -> None:
    files = pairs(images)
    pack(tmp_path / "a.tar", [*files, *files[:4]])
    assert index_folder(tmp_path).samples == 6
    assert ShardSet.open(tmp_path).index["label"].tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("order", [[0, 1, 0, 1], [0, 0, 1, 1], [0, 2, 1, 0, 3]])
def test_members_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, images: list[bytes], order: list[int]
) -> None:
    files = [("k.jpg", images[0]), ("k.cls", b"1"), ("x.jpg", images[1]), ("x.cls", b"1")]
    pack(tmp_path / "a.tar", [files[number] for number in order])
    with pytest.raises(UserError, match=r"a\.tar: 'k' has several members \.jpg[\s\S]*pack the shard again"):
        index_folder(tmp_path)


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.zst", "B.TAR.XZ"])
def test_compressed_shards_are_not_left_out(tmp_path: Path, images: list[bytes], name: str) -> None:
    pack(tmp_path / "a.tar", pairs(images))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"1 tar is compressed, such as '{name}'.*\n  fix: decompress"):
        index_folder(tmp_path)


def test_images_with_longer_extensions_are_found_if_there_are_no_others(
    tmp_path: Path, images: list[bytes]
) -> None:
    pack(
        tmp_path / "a.tar",
        [(n.replace(".jpg", ".input.jpg"), d) for n, d in pairs(images, suffix="output.cls")],
    )
    assert indexed(tmp_path) == (EXPECTED, [])
    pack(tmp_path / "a.tar", [("0.jpg", images[0]), ("1.mask.jpg", images[1])])
    (tmp_path / "classes.txt").unlink()
    labels, warnings = indexed(tmp_path)
    assert labels == {"a.tar/0": -1}, "a mask beside images is no image"
    assert "1 sample has no image" in warnings[0]
    assert "Their members: .jpg 1" in warnings[0]


def test_dots_in_keys_are_explained(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a.tar", pairs(images, "n01440764.{}"))
    with pytest.raises(UserError, match=r"Found \.cls 4, \.jpg 4\n  fix: a key ends at the first dot"):
        index_folder(tmp_path)


def test_other_formats_are_named_with_the_command_that_reads_them(
    tmp_path: Path, images: list[bytes]
) -> None:
    pack(tmp_path / "a.tar", [("0.tif", b"II*\0"), ("0.cls", b"0"), ("1.bmp", b"BM")])
    with pytest.raises(UserError, match=r"Found \.bmp 1, \.cls 1, \.tif 1\n  fix: .*all4one data build"):
        index_folder(tmp_path)


def test_empty_shards_are_named(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "b.tar", [])
    with pytest.raises(UserError, match="the shards contain no samples"):
        index_folder(tmp_path)
    pack(tmp_path / "a.tar", pairs(images))
    labels, warnings = indexed(tmp_path)
    assert labels == EXPECTED
    assert warnings == [f"{tmp_path / 'b.tar'} contains no samples"]


def test_names_that_are_not_utf_8(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a.tar", [*pairs(images, "café_{}"), ("café_9.jpg", b"none")], "latin-1")
    labels, _ = indexed(tmp_path)
    assert labels == {f"a.tar/caf\\xe9_{number}": number for number in range(4)}
    assert [entry["key"] for entry in read_quarantine(tmp_path)] == ["caf\\xe9_9"]


def test_shards_below_the_folder_are_named(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "train" / "a.tar", pairs(images))
    with pytest.raises(UserError, match=r"'train' looks like a part of a data set.*\n  fix: .*/train"):
        index_folder(tmp_path)


def one(content: bytes, suffix: str) -> Callable[[list[bytes]], Names]:
    return lambda images: [("0.jpg", images[0]), (f"0.{suffix}", content)]


def array(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(value))
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("cls", b"\xef\xbb\xbf2\r\n"),
        ("cls", b"2.0"),
        ("cls", b"0 0 1 0"),
        ("json", b'{"label": 2.0}'),
        ("json", b'\xef\xbb\xbf{"label": 2}'),
        ("json", b'{"label": [0, 0, 1]}'),
        ("json", b'{"class": [2]}'),
        ("txt", b"2\n"),
        ("npy", array(2)),
        ("npy", array([2])),
        ("npy", array([0.0, 0.0, 1.0])),
    ],
)
def test_labels_with_one_meaning(tmp_path: Path, images: list[bytes], suffix: str, content: bytes) -> None:
    pack(tmp_path / "a.tar", one(content, suffix)(images))
    assert indexed(tmp_path) == ({"a.tar/0": 2}, [])


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("cls", b"", r"its \.cls is empty"),
        ("cls", b"1.5", r"not a whole number: '1\.5'"),
        ("cls", b"1, 0, 1", "not a whole number"),
        ("json", b'{"label": [1, 2]}', r"not a whole number: \[1, 2\]"),
        ("json", b'{"label": {"a": 1}}', "not a whole number"),
    ],
)
def test_labels_without_one_meaning_are_refused(
    tmp_path: Path, images: list[bytes], suffix: str, content: bytes, message: str
) -> None:
    pack(tmp_path / "a.tar", one(content, suffix)(images))
    with pytest.raises(UserError, match=rf"a\.tar/0: {'its label is ' * (message[:3] == 'not')}{message}"):
        index_folder(tmp_path)
    labels, warnings = indexed(tmp_path, labels=False)
    assert (labels, warnings) == ({"a.tar/0": -1}, [])


def test_names_of_classes_are_numbered_in_their_order(tmp_path: Path, images: list[bytes]) -> None:
    names = [b"owl", b"ant", b"owl", b"bee"]
    pack(
        tmp_path / "a.tar",
        [e for n, c in enumerate(names) for e in ((f"{n}.jpg", images[n]), (f"{n}.cls", c))],
    )
    assert list(indexed(tmp_path)[0].values()) == [2, 0, 2, 1]
    assert ShardSet.open(tmp_path).classes == ("ant", "bee", "owl")
    given = tmp_path / "names"
    given.write_bytes(b"\xef\xbb\xbfowl\r\nbee\r\nant\r\nfox\r\n\r\n")
    assert list(indexed(tmp_path, classes=given)[0].values()) == [0, 2, 0, 1]
    assert ShardSet.open(tmp_path).classes == ("owl", "bee", "ant", "fox")
    given.write_text("owl\n")
    with pytest.raises(
        UserError, match=r"a\.tar/1: its label 'ant' is not a whole number and not a class of .*names"
    ):
        index_folder(tmp_path, classes=given)


def test_numbers_among_names_are_refused(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a.tar", [*one(b"ant", "cls")(images), ("1.jpg", images[1]), ("1.cls", b"7")])
    with pytest.raises(
        UserError, match=r"a\.tar/0: some labels are numbers and others are names.*'ant'\n.*a\.tar/1"
    ):
        index_folder(tmp_path)


def test_captions_and_embeddings_are_no_labels_and_are_named(tmp_path: Path, images: list[bytes]) -> None:
    caption = [("0.jpg", images[0]), ("0.txt", b"42"), ("1.jpg", images[1]), ("1.txt", b"a cat")]
    pack(tmp_path / "a.tar", [*caption, ("2.jpg", images[2]), ("2.npy", array([0.5, 1.5]))])
    labels, warnings = indexed(tmp_path)
    assert set(labels.values()) == {-1}
    assert warnings[0].startswith(
        "no sample has a label. Looked for .cls, .json with `label`, `cls` or `class`"
    )
    assert "Found .txt 2, .npy 1" in warnings[0]
    assert indexed(tmp_path, labels=False)[1] == []


def test_a_field_of_json_by_name(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a.tar", one(json.dumps({"species": "owl"}).encode(), "json")(images))
    labels, warnings = indexed(tmp_path)
    assert labels == {"a.tar/0": -1}
    assert "--label-column FIELD" in warnings[0]
    assert indexed(tmp_path, label_field="species") == ({"a.tar/0": 0}, [])


def test_samples_without_a_label_are_counted(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a.tar", [*one(b"0", "cls")(images), ("1.jpg", images[1])])
    assert indexed(tmp_path) == ({"a.tar/0": 0, "a.tar/1": -1}, ["1 of 2 samples have no label"])


def test_labels_are_part_of_the_checksums(tmp_path: Path, images: list[bytes]) -> None:
    pack(tmp_path / "a" / "a.tar", pairs(images))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    index_folder(tmp_path / "a")
    index_folder(tmp_path / "b", labels=False)
    one_index, other = (ShardSet.open(tmp_path / name).index for name in ("a", "b"))
    assert (one_index["crc32"] != other["crc32"]).all()


def test_images_that_would_be_black_are_named(tmp_path: Path) -> None:
    pixels = np.linspace(0, 4000, 400).astype(np.uint16).reshape(20, 20)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    pack(tmp_path / "a.tar", [(f"{number}.png", png) for number in range(12)])
    _, warnings = indexed(tmp_path)
    assert warnings[0].startswith("no value of the 8 images of 16 bits is above 4,000 of 65,535")
