"""Options and warnings of `data build` and `data index` as their users see them."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Result, run

from data_pipelines.shards.shard_set import ShardSet


def all4one(*words: object) -> Result:
    return run(*words, apart=True, timeout=120)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in folders 0 to 11, and one of 12 bits."""
    folder = tmp_path_factory.mktemp("options")
    random = np.random.default_rng(0)
    for number in range(12):
        (folder / str(number)).mkdir()
        cv2.imwrite(str(folder / str(number) / "1.bmp"), random.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "3" / "2.png"), random.integers(0, 4096, (20, 20), dtype=np.uint16))
    return folder


def test_warnings_are_printed_and_the_build_goes_on(images: Path, tmp_path: Path) -> None:
    result = all4one("data", "build", images, tmp_path / "out")
    assert result.code == 0, result.err
    assert "warning: the classes are numbers but are sorted as text: 0, 1, 10, 11" in result.err
    assert "warning: no value of the 1 images of 16 bits is above 4,0" in result.err
    assert "--range 0,4095" in result.err
    assert len(ShardSet.open(tmp_path / "out")) == 13


def test_the_options_that_the_warnings_name(images: Path, tmp_path: Path) -> None:
    result = all4one(
        "data", "build", images, tmp_path / "out", "--numeric-classes", "--range", "0,4095", "--workers", 2
    )
    assert (result.code, result.err) == (0, "")
    assert ShardSet.open(tmp_path / "out").classes == tuple(map(str, range(12)))
    assert all4one("data", "build", images, tmp_path / "none", "--no-labels").code == 0
    unlabeled = ShardSet.open(tmp_path / "none")
    assert (unlabeled.classes, set(unlabeled.index["label"].tolist())) == ((), {-1})


def test_an_index_with_other_names_and_without_labels(images: Path, tmp_path: Path) -> None:
    assert all4one("data", "build", images, tmp_path / "out").code == 0
    (tmp_path / "names").write_text("".join(f"class {number}\n" for number in range(12)))
    result = all4one("data", "index", tmp_path / "out", "--classes", tmp_path / "names")
    assert result.code == 0, result.err
    assert ShardSet.open(tmp_path / "out").classes[11] == "class 11"
    result = all4one("data", "index", tmp_path / "out", "--no-labels")
    assert result.code == 0
    assert "unlabeled │ 13" in result.words


@pytest.mark.parametrize("values", ["4095", "9,3", "0,70000", "a,b"])
def test_a_range_without_meaning_is_one_message(images: Path, tmp_path: Path, values: str) -> None:
    result = all4one("data", "build", images, tmp_path / "out", "--range", values)
    assert result.code == 2
    assert "are not two values from 0 to 65535" in result.error_words
    assert "Traceback" not in result.err


def test_names_that_are_not_utf_8_end_in_no_traceback(images: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"bilder\xe9")
    for name in (b"caf\xe9", b"bar"):
        (source / os.fsdecode(name)).mkdir(parents=True)
        (source / os.fsdecode(name) / "1.bmp").write_bytes((images / "0" / "1.bmp").read_bytes())
    out = tmp_path / os.fsdecode(b"out\xe9")
    result = all4one("data", "build", source, out)
    assert result.code == 0, result.err
    assert "out\\xe9" in result.out
    assert ShardSet.open(out).classes == ("bar", "caf\\xe9")
    result = all4one("data", "build", source, out)
    assert result.code == 2
    assert "out\\xe9: the output folder is not empty" in result.err
