"""Lazy listing of images in files, folders and tars of any size."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.shards.tars import inner_members, members
from data_pipelines.sources.image_sources import IMAGE_SUFFIXES, Content, Place
from data_pipelines.walk import files_below, is_hidden


class Picture(NamedTuple):
    """One encoded image."""

    name: str
    """Its path. Inside a tar, the path of the tar and the member's name."""
    content: Content
    """Its bytes, or the way to read them."""


def pictures(path: Path) -> Iterator[Picture]:
    """Yield the images of a file, a tar, a tar of tars or a folder of these, sorted by name or in the order of the tar.

    In folders and tars, images are recognized by suffix (.jpg, .jpeg, .png, .webp). Hidden files are skipped. Links are
    followed, except links to a folder that contains them.

    Raises:
        UserError: the file or folder does not exist, a folder cannot be read, or a tar is refused (see `tars.members`).
    """
    require_source(path)
    if path.is_dir():
        yield from _of_folder(path)
    elif path.suffix == ".tar":
        yield from _of_tar(path)
    else:
        yield image_file(path)


def require_source(path: Path) -> None:
    """Raise a UserError if there is no such file or folder."""
    if not path.exists():
        raise UserError(
            "there is no such file or folder", where=path, fix="give images, folders, tars or shards"
        )


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
