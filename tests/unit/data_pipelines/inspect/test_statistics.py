import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.inspect.statistics import QUANTILES, pixel_statistics, preparing_speed, statistics
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet


def test_facts_are_those_of_the_images(shards: ShardSet) -> None:
    facts = statistics(shards)
    assert (facts.samples, facts.shards, facts.unlabeled) == (90, 4, 0)
    assert facts.per_class.tolist() == [30, 30, 30]
    contents = [len(shards.read(sample)) for sample in range(90)]
    assert facts.image_bytes == sum(contents)
    np.testing.assert_allclose(facts.quantiles["bytes"], np.quantile(contents, QUANTILES))
    assert facts.quantiles["shorter side"][0] == 40
    assert facts.quantiles["longer side"][-1] == 54
    assert 0.9 < facts.quantiles["aspect"][0] < facts.quantiles["aspect"][-1] < 1.4


def test_the_speed_is_that_of_batches(shards: ShardSet) -> None:
    settings = DataSettings(views=(ViewSettings(size=16),) * 2, eval_resize=16, executor="opencv", threads=1)
    assert preparing_speed(shards, settings, images=60, batch=200) > 0


def test_colors_are_those_of_the_pixels(shards: ShardSet) -> None:
    pixels = [decode_rgb(shards.read(sample)).reshape(-1, 3) / 255 for sample in range(90)]
    mean = np.mean([p.mean(axis=0) for p in pixels], axis=0)
    std = np.sqrt(np.mean([(p**2).mean(axis=0) for p in pixels], axis=0) - mean**2)
    colors = pixel_statistics(shards)
    assert colors.images == 90
    np.testing.assert_allclose(colors.mean, mean, atol=1e-4)
    np.testing.assert_allclose(colors.std, std, atol=1e-4)
    assert pixel_statistics(shards, images=7).images == 7


def test_colors_of_a_set_that_cannot_be_read_are_refused(whole_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole_set, tmp_path / "set")
    opened = ShardSet.open(folder)
    for path in folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="none of 5 images can be decoded"):
        pixel_statistics(opened, images=5)
