"""The order of the checkpoints in a folder."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from data_pipelines.errors import UserError
from trainer.checkpoints.folder_names import list_checkpoints, step_and_revision
from trainer.checkpoints.format import read_manifest


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
