from pathlib import Path

import cv2
import numpy as np
from built_sets import OPTIONS, files

from data_pipelines.build.builder import build
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.imaging.recode import Recoding
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import Item, Source


def deep_images(top: int) -> Source:
    pixels = np.linspace(0, top, 400).astype(np.uint16).reshape(20, 20)
    return Source([Item(f"{n}", cv2.imencode(".png", pixels)[1].tobytes(), -1) for n in range(60)], ())


def test_dim_images_of_16_bits_are_named_with_the_option_that_helps(tmp_path: Path) -> None:
    warnings: list[str] = []
    build(deep_images(4095), tmp_path / "dim", OPTIONS, workers=2, warn=warnings.append)
    assert len(warnings) == 1
    assert warnings[0].startswith("no value of the 60 images of 16 bits is above 4,095 of 65,535")
    assert warnings[0].endswith("build the set with --range 0,4095")
    build(deep_images(65_535), tmp_path / "full", OPTIONS, warn=warnings.append)
    assert len(warnings) == 1, "images that use the whole range are as they should be"


def test_a_range_is_stored_with_8_bits(tmp_path: Path) -> None:
    warnings: list[str] = []
    options = OPTIONS._replace(recoding=Recoding(values=(0, 4095)))
    build(deep_images(4095), tmp_path / "out", options, warn=warnings.append)
    assert not warnings
    shards = ShardSet.open(tmp_path / "out")
    pixels = decode_rgb(shards.read(0))
    assert (pixels.min(), pixels.max()) == (0, 255)
    build(deep_images(4095), tmp_path / "again", options, workers=3)
    assert files(tmp_path / "out") == files(tmp_path / "again")


def test_options_of_earlier_versions_have_the_same_text() -> None:
    assert repr(Recoding()) == "Recoding(shorter=None, quality=None)"
    assert repr(Recoding(9, 80, (0, 9))) == "Recoding(shorter=9, quality=80, values=(0, 9))"
