"""`all4one segment` on a run, from real images and masks."""

import json

import commands
import numpy as np
import pytest
from PIL import Image
from trained_runs import NARROW, make_run

from data_pipelines.errors import UserError
from launch.evaluate.segmentation import SegmentationJob, segment

SIZE = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", *NARROW, "data.eval_resize=32")[0].path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark images with a bright half, which is class 1."""
    folder = tmp_path_factory.mktemp("masked")
    for part, count in (("train", 12), ("test", 4)):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[:, SIZE // 2 :] = 1
            mask = np.rot90(mask, number)
            pixels = np.random.default_rng(number).integers(0, 60, (SIZE, SIZE, 3)) + 180 * mask[:, :, None]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / part / "masks" / f"{number}.png")
    return folder


def job(run, folder, **options):
    return SegmentationJob(source=run, train=folder / "train", validation=folder / "test", **options)


def test_both_backbones_of_a_run_are_tested_in_one_and_in_two_processes(run, folder, tmp_path, capsys):
    assert segment(job(run, folder, size=64), nproc=1) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"wrote {run}/segmentation.json"
    one = json.loads((run / "segmentation.json").read_text())
    assert set(one["backbones"]) == {"online", "momentum"}
    for result in one["backbones"].values():
        assert result["miou"] > 0.8
        assert result["patches"] == [4, 4]
        assert (result["images"], result["train_patches"]) == (4, 12 * 16)
    out = tmp_path / "two.json"
    done = commands.run(
        *("segment", run, folder / "train", folder / "test", "--size", 64, "--nproc", 2),
        *("--backbone", "online", "--out", out),
    )
    assert done.code == 0, done.out
    two = json.loads(out.read_text())
    assert two["backbones"]["online"]["miou"] == pytest.approx(one["backbones"]["online"]["miou"], abs=5e-3)
    assert "momentum" not in two["backbones"]


def test_wrong_masks_are_refused_before_anything_is_computed(run, folder, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "test" / kind / "a.png")
    (tmp_path / "train").symlink_to(folder / "train")
    out = tmp_path / "out.json"
    with pytest.raises(UserError, match="is a picture of mode RGB"):
        segment(job(run, tmp_path, out=out), nproc=1)
    assert not out.exists()
