from pathlib import Path

import pytest

from data_pipelines.build.builder import build
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import digits
from launch.evaluate.evaluation import warn_of_known_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for name, source in digits().items():
        build(source, folder / name)
    (folder / "same").symlink_to(folder / "train")
    return folder


@pytest.mark.parametrize(
    ("learned", "train", "validation", "warned"),
    [
        ("train", "train", "validation", False),
        ("train", "train", "train", True),
        ("train", "same", "train", True),
        ("train", "train", "same", True),
        ("train", "validation", "train", True),  # the backbone has learned from these images
        ("validation", "train", "validation", True),
    ],
)
def test_evaluating_on_images_of_the_training_warns(
    data: Path, capsys: pytest.CaptureFixture[str], learned: str, train: str, validation: str, warned: bool
) -> None:
    settings = DataSettings(train=data / learned)
    sets = [ShardSet.open(data / name, settings) for name in (train, validation)]
    warn_of_known_images(*sets, settings)
    said = capsys.readouterr().err
    assert ("are also training images" in said) == warned
    assert (f"{data / validation}:" in said) == warned
