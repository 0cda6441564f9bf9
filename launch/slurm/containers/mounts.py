"""The folders of the host that a run needs inside of its container."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.settings import Settings
from data_pipelines.urls import Url
from launch.slurm.containers.container import Container
from trainer.config.schema import Config

_DATABASE = "sqlite:///"


def container_of(configs: Sequence[Config], folder: Path, *, has_relay: bool = True) -> Container | None:
    """Return the container of a job's processes. None: they run on the nodes themselves.

    Args:
        configs: configurations of the runs of the job, which have the same `slurm` section.
        folder: folder of the run, or of all runs of an array. SLURM's files are in `slurm` inside of it.
        has_relay: whether the processes need SLURM's commands.
    """
    settings = configs[0].slurm
    if not settings.container:
        return None
    used, made = set[Path](), set[Path]()
    for config in configs:
        for paths, more in zip((used, made), paths_of(config), strict=True):
            paths.update(more)
    folder = folder.absolute()
    return Container(settings, folder, tuple(sorted({folder, *used})), tuple(sorted(made)), has_relay)


def paths_of(config: Config) -> tuple[list[Path], list[Path]]:
    """Return the files and folders of the host that a run uses, and those of them that each node has to make.

    The folder of the run is not among them. A shard that is a symbolic link needs the folder of its target too.
    """
    used = {path.absolute() for path in _paths(config)} - {config.run.folder.absolute()}
    places = [*config.data.train_places, *([config.data.validation] if config.data.validation else [])]
    made = set()
    if any(isinstance(place, Url) for place in places):
        made.add(config.data.cache_folder.absolute())
    elif config.data.cache is not None:
        used.discard(config.data.cache.absolute())  # which only shards from URLs fill
    for tracker in (config.metrics.mlflow, config.metrics.trackio):
        if isinstance(tracker, Path):
            made.add(tracker.absolute())
        elif tracker is not None and tracker.startswith(_DATABASE):
            made.add(Path(tracker.removeprefix(_DATABASE)).absolute().parent)
    sets = [place.absolute() for place in places if isinstance(place, Path)]
    targets = {target for folder in sets for target in _targets(folder)}
    there = {path for path in used if path.exists()}
    return sorted(there | targets | made), sorted(made)


def _paths(settings: Settings) -> Iterator[Path]:
    """Yield all paths among settings, also those in lists."""
    for name in type(settings).model_fields:
        yield from _paths_in(getattr(settings, name))


def _paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, Settings):
        yield from _paths(value)
    elif isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _paths_in(one)


def _targets(folder: Path) -> Iterator[Path]:
    """Yield the folders outside of a set that its symbolic links lead to."""
    inside = folder.resolve()
    for entry in folder.rglob("*"):
        if entry.is_symlink():
            target = entry.resolve()
            if target.exists() and not target.is_relative_to(inside):
                yield target if target.is_dir() else target.parent
