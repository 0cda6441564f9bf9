"""The checkpoints in a folder, and their order."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.checkpoints.format import read_manifest
from trainer.checkpoints.keep_rules import FOLDER, step_and_revision


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder in no order, whatever their state."""
    paths = folder.iterdir() if folder.is_dir() else []
    return [path for path in paths if FOLDER.fullmatch(path.name) and path.is_dir()]


def free_name(folder: Path, step: int) -> str:
    """Return a name for a checkpoint of a step that no checkpoint in the folder has."""
    revisions = [
        step_and_revision(path)[1] for path in list_checkpoints(folder) if step_and_revision(path)[0] == step
    ]
    return f"step_{step:08d}" + (f".{max(revisions) + 1}" if revisions else "")


def by_age(folder: Path, *, broken: Collection[Path]) -> list[tuple[int, Path]]:
    """Return (sequence, path) of every checkpoint in a folder whose files have the right sizes, oldest first.

    Args:
        folder: folder of the checkpoints.
        broken: checkpoints to leave out.
    """
    aged = []
    for path in set(list_checkpoints(folder)) - set(broken):
        with suppress(UserError, OSError):
            manifest = read_manifest(path)
            if all((path / name).stat().st_size == f.size for name, f in manifest.files.items()):
                aged.append((manifest.sequence, path))
    return sorted(aged)


def newest_first(folder: Path, *, broken: Collection[Path]) -> list[Path]:
    """Return all checkpoints in a folder in the order in which to try to load them.

    A checkpoint whose manifest cannot be read has no known age. It counts as the newest one if its step is above all
    others. Otherwise it is probably a leftover, and must not stand in the way of those whose age is known.
    """
    aged = [path for _, path in reversed(by_age(folder, broken=broken))]
    unaged = sorted(set(list_checkpoints(folder)) - set(aged), key=step_and_revision, reverse=True)
    last = max(map(step_and_revision, aged), default=(-1, 0))
    above = [path for path in unaged if step_and_revision(path) > last]
    return [*above, *aged, *unaged[len(above) :]]
