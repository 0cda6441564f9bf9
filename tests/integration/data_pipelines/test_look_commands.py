"""`data show` and `data stats` as their users run them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import ROOT, Result, run


def all4one(*words: object) -> Result:
    return run(*words, apart=True, timeout=120)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look")
    random = np.random.default_rng(0)
    for number in range(48):
        path = folder / "images" / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(path), random.integers(0, 256, (60 + number, 90, 3), dtype=np.uint8))
    result = all4one("data", "build", folder / "images", folder / "set")
    assert result.code == 0, result.err
    return folder / "set"


def test_show_draws_what_a_recipe_makes(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    result = all4one("data", "show", shards, "--recipe", "cifar10", "--out", out, "--images", 2)
    assert result.code == 0, result.err
    assert f"wrote {out}" in result.words
    more = tmp_path / "more.png"
    given = "data.views=[{preset: byol, size: 64}, {size: 32, count: 3}]"
    assert all4one("data", "show", shards, given, "--out", more, "--images", 2).code == 0
    assert cv2.imread(str(more)).shape[1] > cv2.imread(str(out)).shape[1], "five views are wider than two"


def test_stats_tell_sizes_classes_and_the_time_of_an_epoch(shards: Path) -> None:
    result = all4one("data", "stats", shards, "--recipe", "cifar10", "data.decode_threads=1")
    assert result.code == 0, result.err
    assert "48 samples in 1 shards" in result.out
    assert "3 classes" in result.out
    assert "images/s with 1 threads" in result.words
    assert re.search(r"from 48 images: data\.mean=\[0\.[\d.,]+\] data\.std=\[0\.[\d.,]+\]\n", result.out)


def test_duplicates_are_listed_whatever_their_class(shards: Path, tmp_path: Path) -> None:
    images = tmp_path / "validation"
    for number, label in ((5, "class0"), (6, "class0"), (6, "class2")):
        (images / label).mkdir(exist_ok=True, parents=True)
        shutil.copy(shards.parent / "images" / f"class{number % 3}" / f"{number}.jpg", images / label)
    cv2.imwrite(str(images / "class2" / "own.jpg"), np.zeros((50, 50, 3), np.uint8))
    assert all4one("data", "build", images, tmp_path / "set").code == 0

    both = all4one("data", "duplicates", shards, tmp_path / "set")
    assert both.code == 1, both.err
    assert f"{shards}: 48 samples, 0 images occur more than once" in both.out
    assert f"{tmp_path / 'set'}: 4 samples, 1 images occur more than once" in both.out
    assert "2 images are in more than one of these datasets" in both.out
    listed = [line.split(" = ") for line in both.out.splitlines() if " = " in line]
    assert sorted(map(len, listed)) == [2, 3]
    assert all(line[0].startswith(str(shards)) for line in listed)

    alone = all4one("data", "duplicates", tmp_path / "set")
    assert (alone.code, alone.out.count(" = ")) == (1, 1)
    assert all4one("data", "duplicates", shards).code == 0
    missing = all4one("data", "duplicates", tmp_path / "none")
    assert missing.code == 2
    assert "Traceback" not in missing.err


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("show", ["data.views=byoll"], "did you mean byol"),
        ("show", ["data.viewz=byol"], "did you mean data.views"),
        ("stats", ["optim.lr=3"], "is not a data setting"),
        ("stats", ["--recipe", "cifr10"], "did you mean cifar10"),
    ],
)
def test_wrong_words_end_with_one_message(shards: Path, verb: str, words: list[str], said: str) -> None:
    result = all4one("data", verb, shards, *words)
    assert result.code == 2
    assert said in result.error_words
    assert "Traceback" not in result.err


def test_the_module_is_light() -> None:
    code = "import sys, launch.commands.data; print([m for m in ('numpy', 'torch', 'rich', 'cv2') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() in ("[]", "['rich']"), "typer itself may load rich"
