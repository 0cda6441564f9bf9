"""Figures of patch features, from real runs and images."""

import numpy as np
import pytest
from PIL import Image
from trained_runs import NARROW, make_run

from data_pipelines.errors import UserError
from launch.evaluate.patches import draw_patches

COMMON = {"backbone": None, "size": None, "limit": 8}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", *NARROW, "data.eval_resize=32")[0].path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    settings = ("backbone.name=vit_tiny_patch16_224", "data.eval_resize=32")
    return make_run(tmp_path_factory.mktemp("runs") / "run", *settings)[0].path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_figure_of_a_convolutional_network(resnet, photos, tmp_path, capsys):
    out = tmp_path / "new" / "patches.png"
    (photos / "1.png").write_bytes(b"no image")
    draw_patches(resnet, [str(photos)], out, **COMMON)
    skipped, wrote = capsys.readouterr().out.splitlines()
    assert skipped.startswith(f"skipped {photos}/1.png: ")
    assert wrote == f"wrote {out}: 2 images, 2 x 2 patches; 1 skipped"
    with Image.open(out) as picture:
        assert picture.width > 400
        assert picture.height > 400  # two rows of two cells


def test_a_figure_of_a_vit_has_its_heads_and_larger_images_have_more_patches(vit, photos, tmp_path, capsys):
    out = tmp_path / "patches.png"
    draw_patches(vit, [str(photos)], out, **COMMON | {"size": 64, "limit": 2})
    assert capsys.readouterr().out == f"wrote {out}: 2 images, 4 x 4 patches, 3 attention heads\n"
    with Image.open(out) as picture:
        assert picture.width > 2 * picture.height  # two rows of five cells


def test_wrong_input(resnet, vit, photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="there are no images"):
        draw_patches(resnet, [str(empty)], tmp_path / "a.png", **COMMON)
    with pytest.raises(UserError, match=r"a picture must end in .png, .pdf, .svg or .jpg"):
        draw_patches(resnet, [str(photos)], tmp_path / "a.txt", **COMMON)
    with pytest.raises(UserError, match="does not accept images of 40 x 40"):
        draw_patches(vit, [str(photos)], tmp_path / "a.png", **COMMON | {"size": 40})
    assert not list(tmp_path.glob("*.txt")) + list(tmp_path.glob("*.png"))
