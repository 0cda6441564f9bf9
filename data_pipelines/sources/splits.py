"""Files of a data set by split, such as `train` and `validation`, from their names or folders."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.sources.layout_doubts import SPLITS

_NUMBERED = re.compile(rf"(?:.*[-_])?({'|'.join(SPLITS)})[-_]?\d+.*")


def group_by_split(
    root: Path, paths: Iterable[Path], split_of: Callable[[Path], str]
) -> dict[str, list[Path]]:
    """Return the files of each split. A single split has the name `""`.

    Args:
        root: the folder of the data set.
        paths: files in it.
        split_of: returns the split in the name of a file, or `""`.

    Raises:
        UserError: some files name a split and others do not, or there are several sets in separate folders.
    """
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(split_of(path) or _folder_split(root, path), []).append(path)
    if len(splits) > 1 and "" in splits:
        raise UserError(
            f"some file names contain a split, but {readable(splits[''][0].name)!r} does not",
            where=readable(root),
            fix=f"rename the files of each split to SPLIT-00000-of-00001{splits[''][0].suffix}",
        )
    for files in splits.values():
        sets = {_set_of(root, file): file.parent for file in files}
        if len(sets) > 1:
            one, other = sorted(sets.values())[:2]
            raise UserError(
                f"there are several sets, such as {readable(one)} and {readable(other)}",
                where=readable(root),
                fix=f"build one of them: all4one data build {readable(one)} OUT",
            )
    return {"": next(iter(splits.values()))} if len(splits) == 1 else splits


def tar_split(path: Path) -> str:
    """Return the split in the name of a tar such as `imagenet-train-0001.tar`, or `""`."""
    match = _NUMBERED.fullmatch(path.stem)
    return match[1] if match else path.stem if path.stem in SPLITS else ""


def _folder_split(root: Path, path: Path) -> str:
    parts = path.relative_to(root).parent.parts
    return next((part for part in reversed(parts) if part in SPLITS), "")


def _set_of(root: Path, path: Path) -> tuple[str, ...]:
    """Return the folders of a file that are neither splits nor numbers. Files of one set have the same."""
    parts = path.relative_to(root).parent.parts
    return tuple(part for part in parts if part not in SPLITS and not part.isdecimal())
