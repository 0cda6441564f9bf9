"""Lazy listing of images in files, folders and tars of any size."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import counted, readable
from data_pipelines.imaging.foreign import IMAGE_SUFFIXES
from data_pipelines.shards.tars import inner_members, members
from data_pipelines.sources.items import Content, Place
from data_pipelines.walk import files_below, is_hidden

_log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """One encoded image."""

    name: str
    """Its path. Inside a tar, the path of the tar and the member's name."""
    content: Content
    """Its bytes, or the way to read them."""


def pictures(path: Path) -> Iterator[Picture]:
    """Yield the images of a file, a tar, a tar of tars or a folder of these, sorted by name or in the order of the tar.

    In folders and tars, images are recognized by suffix (see `foreign.IMAGE_SUFFIXES`). Hidden files are skipped.
    Other files are skipped, and a warning counts them at the end. Links are followed, except links to a folder that
    contains them.

    Raises:
        UserError: the file or folder does not exist, a folder cannot be read, or a tar is refused (see `tars.members`).
    """
    require_source(path)
    skipped: Counter[str] = Counter()
    if path.is_dir():
        yield from _of_folder(path, skipped)
    elif path.suffix == ".tar":
        yield from _of_tar(path, skipped)
    else:
        yield image_file(path)
    if skipped:
        _log.warning(
            "%s: skipped %d files that are no images: %s", readable(path), skipped.total(), counted(skipped)
        )


def require_source(path: Path) -> None:
    """Raise a UserError if there is no such file or folder."""
    if not path.exists():
        raise UserError(
            "there is no such file or folder", where=path, fix="give images, folders, tars or shards"
        )


def _of_folder(folder: Path, skipped: Counter[str]) -> Iterator[Picture]:
    for path in files_below(folder):
        if path.suffix == ".tar":
            yield from _of_tar(path, skipped)
        elif _is_image(path, skipped):
            yield image_file(path)


def image_file(path: Path) -> Picture:
    """The image of a file that exists."""
    return Picture(readable(path), Place(path, 0, path.stat().st_size))


def _of_tar(path: Path, skipped: Counter[str]) -> Iterator[Picture]:
    for member in members(path):
        inner = PurePosixPath(member.name)
        if any(is_hidden(part) for part in inner.parts):
            continue
        if inner.suffix == ".tar":
            for image in inner_members(path, member):
                if _is_image(PurePosixPath(image.name), skipped):
                    yield Picture(
                        readable(f"{path}/{inner}/{image.name}"), Place(path, image.offset, image.size)
                    )
        elif _is_image(inner, skipped):
            yield Picture(readable(f"{path}/{inner}"), Place(path, member.offset, member.size))


def _is_image(path: PurePosixPath | Path, skipped: Counter[str]) -> bool:
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        skipped[readable(suffix) or "no suffix"] += 1
    return suffix in IMAGE_SUFFIXES
