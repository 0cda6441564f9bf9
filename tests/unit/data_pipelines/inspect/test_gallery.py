from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.inspect.gallery import draw
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet

SETTINGS = DataSettings(
    views=(ViewSettings(size=32, blur_prob=1), ViewSettings(size=32, solarize_prob=1), ViewSettings(size=16)),
    eval_resize=36,
)


@pytest.mark.slow
def test_a_picture_with_a_row_for_each_image(shards: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "new" / "views.png"
    assert draw(shards, SETTINGS, out, seed=0, epoch=0, images=3) == []
    picture = np.asarray(Image.open(out).convert("RGB"))
    taller = tmp_path / "taller.png"
    draw(shards, SETTINGS, taller, seed=0, epoch=0, images=4)
    assert Image.open(taller).height > picture.shape[0]
    assert picture.std() > 20, "something is drawn"


def test_another_epoch_is_another_picture_and_the_same_one_the_same(shards: ShardSet, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("one", "again", "later")]
    for path, epoch in zip(paths, (0, 0, 1), strict=True):
        draw(shards, SETTINGS, path, seed=0, epoch=epoch, images=2)
    one, again, later = (np.asarray(Image.open(path)) for path in paths)
    assert np.array_equal(one, again)
    assert one.shape != later.shape or not np.array_equal(one, later)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_left_out_and_named(whole_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for path in whole_set.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    shards = ShardSet.open(folder)
    with (folder / "shard-000000.tar").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(bytes(size))
    refused = draw(shards, SETTINGS, tmp_path / "views.png", seed=0, epoch=0, images=12)
    assert 0 < len(refused) < 12
    assert all("shard-000000.tar" in name and "CRC differs" in name for name in refused)


def test_a_place_that_cannot_be_written(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"views.nothing"):
        draw(shards, SETTINGS, tmp_path / "views.nothing", seed=0, epoch=0, images=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw(shards, SETTINGS, tmp_path / "file" / "views.png", seed=0, epoch=0, images=1)
