"""The whole way with real images: tars to shards, to batches of both executors."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.imaging.images import decode_rgb
from data_pipelines.inspect.verify import verify
from data_pipelines.loading.loaders import EvalLoader, TrainLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder
from data_pipelines.sources.image_sources import open_source

CPU = torch.device("cpu")
VIEWS = (ViewSettings(size=112, blur_prob=1.0), ViewSettings(size=112, blur_prob=0.1, solarize_prob=0.2))


@pytest.fixture(scope="module")
def imagenet(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    source = open_source(test_data / "imagenet1k-sample" / "ILSVRC2012_img_train.tar")
    build(source, folder, BuildOptions(shard_bytes=30_000_000), workers=2)
    return folder


def test_a_tar_of_tars_keeps_every_image(imagenet: Path) -> None:
    shards = ShardSet.open(imagenet)
    assert (len(shards), shards.num_classes) == (1000, 1000)
    assert sorted(shards.index["label"]) == list(range(1000))
    assert sum(len(report.bad) for report in verify(imagenet, decode=True, workers=2)) == 0
    for sample in range(0, 1000, 97):
        name = shards.key(sample).split("/")[1]
        assert shards.classes[shards.index["label"][sample]] == name.split("_")[0]
        height, width = shards.sizes(np.array([sample]))[0]
        assert decode_rgb(shards.read(sample)).shape == (height, width, 3)


def test_plain_webdataset_reads_the_shards(imagenet: Path) -> None:
    shards = ShardSet.open(imagenet)
    names = [str(path) for path in sorted(imagenet.glob("*.tar"))]
    read = list(webdataset.WebDataset(names, shardshuffle=False))
    assert len(read) == 1000
    for sample in range(0, 1000, 31):
        assert shards.key(sample).endswith("/" + read[sample]["__key__"])
        assert read[sample]["jpg"] == shards.read(sample)
        assert int(read[sample]["cls"]) == shards.index["label"][sample]


def test_indexing_again_gives_the_same_index(imagenet: Path) -> None:
    before = (imagenet / "dataset.json").read_bytes(), (imagenet / "index.npy").read_bytes()
    index_folder(imagenet, workers=2)
    assert ((imagenet / "dataset.json").read_bytes(), (imagenet / "index.npy").read_bytes()) == before


def test_cifar_classes_are_spread_over_the_shards(test_data: Path, tmp_path: Path) -> None:
    build(
        open_source(test_data / "cifar10" / "test.tar"), tmp_path, BuildOptions(shard_samples=2500), workers=2
    )
    shards = ShardSet.open(tmp_path)
    assert shards.shard_sizes == [2500] * 4
    assert shards.classes[0] == "airplane"
    for first in range(0, 10_000, 2500):
        counts = np.bincount(shards.index["label"][first : first + 2500], minlength=10)
        assert counts.min() > 200


def test_executors_agree_on_real_views(imagenet: Path) -> None:
    batches = {}
    for executor in ("opencv", "dali"):
        settings = DataSettings(executor=executor, views=VIEWS, decode_threads=2)
        with TrainLoader(
            ShardSet.open(imagenet), settings, seed=1, rank=0, world_size=1, global_batch=64, device=CPU
        ) as loader:
            batches[executor] = next(loader.batches(3))
    assert torch.equal(batches["opencv"].ids, batches["dali"].ids)
    std = torch.tensor(DataSettings().std)[None, :, None, None] * 255
    for one, other in zip(batches["opencv"].views, batches["dali"].views, strict=True):
        assert ((one - other) * std).abs().mean() <= 2


@pytest.mark.parametrize("executor", ["opencv", "dali"])
def test_ranks_and_restarts_are_exact_on_real_images(imagenet: Path, executor: str) -> None:
    settings = DataSettings(executor=executor, views=VIEWS, decode_threads=2, shuffle_block=300)
    shards = ShardSet.open(imagenet)

    def take(rank: int, world_size: int, start: int, count: int) -> list[torch.Tensor]:
        with TrainLoader(
            shards, settings, seed=1, rank=rank, world_size=world_size, global_batch=48, device=CPU
        ) as loader:
            return [torch.stack(batch.views) for batch in islice(loader.batches(start), count)]

    alone = take(0, 1, 18, 4)  # over the end of an epoch of 20 steps
    halves = [take(rank, 2, 19, 3) for rank in range(2)]
    for step in range(3):
        assert torch.equal(alone[1 + step], torch.cat([halves[0][step], halves[1][step]], dim=1))


@pytest.mark.parametrize("executor", ["opencv", "dali"])
def test_evaluation_on_real_images(imagenet: Path, executor: str) -> None:
    shards = ShardSet.open(imagenet)
    settings = DataSettings(executor=executor, views=VIEWS, decode_threads=2, eval_resize=128)
    with EvalLoader(shards, settings, rank=1, world_size=3, batch=100, device=CPU) as loader:
        ids = torch.cat([batch.ids for batch in loader])
    assert ids.tolist() == list(range(1, 1000, 3))
