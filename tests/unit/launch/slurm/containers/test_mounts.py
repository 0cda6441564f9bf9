from pathlib import Path

import pytest

from data_pipelines.settings import DataSettings
from launch.slurm.containers.mounts import container_of, paths_of
from trainer.config.schema import load_config


def test_sets_weights_and_targets_of_links_are_mounted(tmp_path: Path) -> None:
    train, other, elsewhere = tmp_path / "train", tmp_path / "other", tmp_path / "elsewhere"
    for folder in (train, other, elsewhere):
        folder.mkdir()
    (elsewhere / "a.tar").touch()
    (train / "part").mkdir()
    (train / "part" / "shard.tar").symlink_to(elsewhere / "a.tar")
    (train / "again.tar").symlink_to(train / "b.tar")
    weights = tmp_path / "weights.pt"
    weights.touch()
    config = load_config(
        "digits_demo",
        [
            f"data.train=[{train},{other}]",
            f"data.validation={tmp_path / 'missing'}",
            f"data.cache={tmp_path / 'cache'}",
            f"backbone.init={weights}",
            f"run.folder={tmp_path / 'runs'}",
        ],
    )
    assert paths_of(config) == (sorted([train, other, elsewhere, weights]), [])


def test_the_cache_of_shards_from_urls_is_made_on_each_node(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    config = load_config("digits_demo", ["data.train=s3://bucket/train", f"data.cache={cache}"])
    used, made = paths_of(config)
    assert cache in used
    assert made == [cache]
    default = load_config("digits_demo", ["data.train=s3://bucket/train"])
    assert paths_of(default)[1] == [DataSettings().cache_folder]


@pytest.mark.parametrize(
    ("tracker", "made"),
    [("{0}/mlruns", ["mlruns"]), ("sqlite:///{0}/log/runs.db", ["log"]), ("http://host:5000", [])],
)
def test_the_records_of_a_tracker_do_not_stay_inside(tmp_path: Path, tracker: str, made: list[str]) -> None:
    config = load_config("digits_demo", [f"metrics.mlflow={tracker.format(tmp_path)}"])
    used, found = paths_of(config)
    assert found == [tmp_path / name for name in made]
    assert set(found) <= set(used)


def test_a_container_holds_the_paths_of_all_runs_of_an_array(tmp_path: Path) -> None:
    image = tmp_path / "a.sif"
    image.touch()
    sets = [tmp_path / name for name in "ab"]
    for one in sets:
        one.mkdir()
    common = ["data.validation=null", "slurm.container_runtime=apptainer"]
    configs = [
        load_config("digits_demo", [*common, f"data.train={one}", f"slurm.container={image}"]) for one in sets
    ]
    found = container_of(configs, tmp_path / "sweep")
    assert found is not None
    assert found.mounts == (*sets, tmp_path / "sweep")
    assert container_of([load_config("digits_demo", [])], tmp_path) is None
