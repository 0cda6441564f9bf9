"""Images one after the other, from files, folders and tars: listed while they are read, so that none is too large."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.shards.tars import inner_members, members
from data_pipelines.sources.image_sources import IMAGE_SUFFIXES, Content, Place
from data_pipelines.walk import files_below, is_hidden


class Picture(NamedTuple):
    """One encoded image."""

    name: str
    """Its path; inside of a tar, the tar's path and the member's name."""
    content: Content
    """Its bytes, or how to come by them."""


def pictures(path: Path) -> Iterator[Picture]:
    """The images of a file, a tar, a tar of tars or a folder of these, in the order of names or as a tar stores them.

    In folders and tars an image is told by its ending (.jpg, .jpeg, .png, .webp); hidden files are passed over. Links
    are followed, but for those to a folder that they lie in.

    Raises:
        UserError: there is no such file or folder, a folder cannot be read, or a tar is refused (see `tars.members`).
    """
    require_source(path)
    if path.is_dir():
        yield from _of_folder(path)
    elif path.suffix == ".tar":
        yield from _of_tar(path)
    else:
        yield image_file(path)


def require_source(path: Path) -> None:
    """Raise a UserError where there is no such file or folder."""
    if not path.exists():
        raise UserError(
            "there is no such file or folder", where=path, fix="name images, folders, tars or shards"
        )


def readable(name: str | Path) -> str:
    """A name of a file as text that can be written anywhere: bytes of it that are no UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _of_folder(folder: Path) -> Iterator[Picture]:
    for path in files_below(folder):
        if path.suffix == ".tar":
            yield from _of_tar(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield image_file(path)


def image_file(path: Path) -> Picture:
    """The image of a file that exists."""
    return Picture(readable(path), Place(path, 0, path.stat().st_size))


def _of_tar(path: Path) -> Iterator[Picture]:
    for member in members(path):
        inner = PurePosixPath(member.name)
        if any(is_hidden(part) for part in inner.parts):
            continue
        if inner.suffix == ".tar":
            for image in inner_members(path, member):
                if PurePosixPath(image.name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Picture(
                        readable(f"{path}/{inner}/{image.name}"), Place(path, image.offset, image.size)
                    )
        elif inner.suffix.lower() in IMAGE_SUFFIXES:
            yield Picture(readable(f"{path}/{inner}"), Place(path, member.offset, member.size))
