import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards.index import read_quarantine
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder


@pytest.fixture
def image(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> bytes:
    return encode(picture(), "JPEG")


def shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_our_own_shards_get_the_same_index_again(whole_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole_set, tmp_path / "set")
    before = (folder / "dataset.json").read_bytes(), (folder / "index.npy").read_bytes()
    for name in ("dataset.json", "index.npy", "quarantine.jsonl"):
        (folder / name).unlink()
    index_folder(folder, decode=True, workers=2)
    assert ((folder / "dataset.json").read_bytes(), (folder / "index.npy").read_bytes()) == before


def test_a_folder_that_cannot_be_written_to_is_refused_before_it_is_read(
    whole_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="this folder is read-only"):
        index_folder(whole_set)


def test_every_kind_of_label_and_image(
    tmp_path: Path, image: bytes, odd_images: dict[str, bytes], picture: Callable[..., np.ndarray]
) -> None:
    shard(
        tmp_path / "b.tar",
        {"x/one.JPEG": image, "x/one.cls": b" 2\n", "x/one.txt": b"a caption", "two.png": odd_images["png"]},
    )
    shard(
        tmp_path / "a.tar",
        {
            "three.json": json.dumps({"label": 1}).encode(),
            "three.webp": odd_images["webp"],
            "four.jpg": image,
            "four.json": b'{"cls": "0", "caption": "none"}',
            "five.jpeg": image,
            "five.json": b"{}",
            "six.seg.png": odd_images["png"],
            "six.jpg": image,
            "seven.txt": b"no image here",
        },
    )
    record = index_folder(tmp_path)
    shards = ShardSet.open(tmp_path)
    labels = {shards.key(i): int(shards.index["label"][i]) for i in range(len(shards))}
    assert labels == {
        "a.tar/three": 1,
        "a.tar/four": 0,
        "a.tar/five": -1,
        "a.tar/six": -1,
        "b.tar/x/one": 2,
        "b.tar/two": -1,
    }
    assert shards.classes == ("0", "1", "2")
    assert shards.read(3) == image
    assert record.quarantined == 1
    assert read_quarantine(tmp_path) == [
        {"key": "seven", "shard": "a.tar", "reason": "no image among its members"}
    ]


def test_names_of_classes_come_from_a_file(tmp_path: Path, image: bytes) -> None:
    shard(tmp_path / "a.tar", {"one.jpg": image, "one.cls": b"0"})
    (tmp_path / "classes.txt").write_text("tench\ngoldfish\n")
    index_folder(tmp_path)
    assert ShardSet.open(tmp_path).classes == ("tench", "goldfish")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"k.cls": b"2"}, r"a\.tar/k: its label 2 is outside the 2 classes"),
        ({"k.cls": b"-2"}, r"a\.tar/k: its label -2 is outside the 2 classes"),
        (
            {"k.cls": b"dog"},
            r"a\.tar/k: its label 'dog' is not a whole number and not a class of classes\.txt",
        ),
        ({"k.json": b'{"label": 1.5}'}, r"a\.tar/k: its label is not a whole number: 1\.5"),
        ({"k.json": b"[1]"}, r"a\.tar/k: its \.json is not a JSON object"),
        ({"k.json": b"{"}, r"a\.tar/k: its \.json is not a JSON object"),
    ],
)
def test_wrong_labels_name_their_key(
    tmp_path: Path, image: bytes, files: dict[str, bytes], message: str
) -> None:
    shard(tmp_path / "a.tar", {"k.jpg": image} | files)
    (tmp_path / "classes.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=message):
        index_folder(tmp_path)
    with pytest.raises(UserError, match="no index"):
        ShardSet.open(tmp_path)


def test_bad_images_are_left_out(tmp_path: Path, image: bytes) -> None:
    shard(tmp_path / "a.tar", {"good.jpg": image, "cut.jpg": image[:-50], "text.jpg": b"hello"})
    assert index_folder(tmp_path).samples == 1
    assert [entry["key"] for entry in read_quarantine(tmp_path)] == ["cut", "text"]


def test_a_folder_without_usable_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no \.tar files"):
        index_folder(tmp_path)
    shard(tmp_path / "a.tar", {"text.jpg": b"hello"})
    with pytest.raises(UserError, match="no image of the shards is usable: not a JPEG, PNG or WebP image 1"):
        index_folder(tmp_path)


def test_a_cut_shard_is_named(tmp_path: Path, image: bytes) -> None:
    shard(tmp_path / "a.tar", {"one.jpg": image, "two.jpg": image})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(image) + 800])
    with pytest.raises(UserError, match=r"a\.tar: the tar cannot be read"):
        index_folder(tmp_path)


def test_half_a_build_is_not_indexed(tmp_path: Path, image: bytes) -> None:
    shard(tmp_path / "shard-000000.tar", {"one.jpg": image})
    (tmp_path / ".building").mkdir()
    with pytest.raises(UserError, match="build of these shards was interrupted"):
        index_folder(tmp_path)
