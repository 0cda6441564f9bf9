from pathlib import Path

import pytest

from data_pipelines.build.builder import build
from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from data_pipelines.shards.mixed_set import open_train_shards
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import digits
from launch.evaluate.evaluation import open_labeled_set, warn_of_known_images


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


def test_a_set_that_only_the_recipe_names_and_that_is_not_there_is_told_so_with_the_option(
    data: Path,
) -> None:
    """As for an exported file on another machine than the one that has trained."""
    settings = DataSettings(train=data / "gone")
    with pytest.raises(
        UserError, match=r"no such folder\. The recipe of the evaluated backbone names"
    ) as refused:
        open_labeled_set(None, lambda: open_train_shards(settings), settings, "--train")
    assert refused.value.where == data / "gone"
    assert refused.value.fix is not None
    assert refused.value.fix.startswith(
        "give a labeled dataset with --train SHARDS. To use the set of the recipe: give"
    )
    with pytest.raises(UserError, match=r"^--validation: the recipe names no labeled dataset") as refused:
        open_labeled_set(None, lambda: None, settings, "--validation")
    assert refused.value.fix == "give a labeled dataset with --validation SHARDS"
    with pytest.raises(UserError, match="there is no such folder") as refused:
        open_labeled_set(data / "other", lambda: open_train_shards(settings), settings, "--train")
    assert "recipe" not in str(refused.value)
    opened = open_labeled_set(
        None, lambda: open_train_shards(DataSettings(train=data / "train")), settings, "--train"
    )
    assert opened.folder == data / "train"
