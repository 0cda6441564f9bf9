"""Real images, as tensors and as a file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import digits


@pytest.fixture(scope="session")
def some_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of shards with twelve digits."""
    source = digits()["validation"]
    folder = tmp_path_factory.mktemp("some_digits")
    build(source._replace(items=source.items[::25][:12]), folder, BuildOptions())
    return folder


@pytest.fixture
def images_for(some_digits: Path):
    """Images [12, 3, S, S] as a recipe normalizes them."""

    def images(recipe) -> Tensor:
        device = torch.device("cpu")
        with EvalLoader(
            ShardSet.open(some_digits), recipe.data, rank=0, world_size=1, batch=12, device=device
        ) as loader:
            (batch,) = loader
        return batch.images

    return images
