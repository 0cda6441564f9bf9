"""Images of the training set with the views that a run sees of them."""

import io

import numpy as np
import pytest
import torch
from noise_sets import make_set
from PIL import Image
from trained_runs import make_run

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.shards.shard_set import ShardSet
from trainer.visualization.samples import tile
from trainer.visualization.view_rows import view_rows

VIEWS = "data.views=[{size: 32, solarize_prob: 1}, {size: 32}, {size: 16, grayscale_prob: 1}]"


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(float)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet.open(make_set(tmp_path_factory.mktemp("sets") / "train", 24))


def test_rows_are_the_first_images_of_the_run_as_its_loader_gives_them(tmp_path, shards):
    run, _ = make_run(
        tmp_path / "run", VIEWS, f"data.train={shards.folder}", "run.seed=5", "train.global_batch=8"
    )
    rows = view_rows(run, images=4)
    config = run.read_config()
    with TrainLoader(
        shards, config.data, seed=5, rank=0, world_size=1, global_batch=8, device=torch.device("cpu")
    ) as loader:
        batch = next(loader.batches(0))
    mean, std = (np.array(values)[:, None, None] for values in (config.data.mean, config.data.std))
    assert len(rows) == 4
    for number, row in enumerate(rows):
        sample, label = int(batch.ids[number]), int(batch.labels[number])
        assert row.name == ("dark", "light")[label]
        assert row.original == tile(decode_rgb(shards.read(sample)), 128)
        assert len(row.views) == 3
        for found, views in zip(row.views, batch.views, strict=True):
            view = (views[number].double().numpy() * std + mean).transpose(1, 2, 0) * 255  # [S, S, 3]
            wanted = tile(np.rint(view).clip(0, 255).astype(np.uint8), 128)
            assert np.abs(pixels(found) - pixels(wanted)).mean() < 1, "but for rounding"
        gray = pixels(row.views[2])
        assert np.ptp(gray, axis=2).max() <= 4
    assert view_rows(run, images=4) == rows
    assert len({row.original for row in view_rows(run, images=99)}) == 24


def test_a_stream_has_no_rows_and_a_missing_set_is_one_message(tmp_path):
    streamed, _ = make_run(
        tmp_path / "stream",
        "data.reader=stream",
        "data.stream.samples=64",
        "data.validation=null",
        f"data.train={tmp_path}/shard-{{000000..000001}}.tar",
    )
    assert view_rows(streamed) == []
    gone, _ = make_run(tmp_path / "gone", f"data.train={tmp_path / 'absent'}")
    with pytest.raises(UserError, match="absent: there is no such folder"):
        view_rows(gone)
