"""Lists the images of a folder, a tar or a zip, with the class folder of each."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.formatting import counted, readable
from data_pipelines.imaging.foreign import IMAGE_SUFFIXES, KNOWN_SUFFIXES
from data_pipelines.shards.tars import inner_members, members
from data_pipelines.sources.items import OtherFormat, Place
from data_pipelines.sources.zips import Deflated, zip_members
from data_pipelines.walk import files_below, is_hidden


class ListedImage(NamedTuple):
    """An image of a source."""

    class_name: str | None
    """Name of its class folder. None if it is in none."""
    path: PurePosixPath
    content: Place | Deflated
    """Its bytes, which are read later."""


class Listing(NamedTuple):
    """The images of a source, and what is left out."""

    images: list[ListedImage]
    skipped: Counter[str]
    """Suffixes of files that are not listed."""
    tried: Counter[str]
    """Suffixes of files in class folders that are listed although they are not those of images."""
    doubts: list[str]

    def skipped_text(self) -> str:
        """Return the files that are not listed, by suffix."""
        return f"{self.skipped.total():,} other files: {counted(self.skipped)}"

    def notes(self) -> Iterator[str]:
        """Yield what the user should know."""
        yield from self.doubts
        if self.skipped:
            yield f"skipped {self.skipped_text()}"
        if self.tried:
            yield (
                f"{self.tried.total():,} files in class folders have no image suffix: {counted(self.tried)}. Those "
                "that are no images are left out"
            )


def list_folder(root: Path, *, flat: bool = False) -> Listing:
    """List the images of a folder. The class of an image is the first folder on its path.

    Args:
        root: the folder.
        flat: whether folders are no classes.
    """
    listing = Listing([], Counter(), Counter(), [])
    # Links are followed, because subsets of large datasets are often folders of links to class folders.
    for path in files_below(root):
        inner = path.relative_to(root)
        _add(listing, PurePosixPath(inner), Place(path, 0, path.stat().st_size), flat=flat)
    return listing


def list_tar(path: Path, *, flat: bool = False) -> Listing:
    """List the images of a tar. The class of an image is the first folder on its path, or its inner tar.

    Args:
        path: the tar.
        flat: whether folders are no classes.
    """
    listing = Listing([], Counter(), Counter(), [])
    for member in members(path, listing.doubts.append):
        inner = PurePosixPath(member.name)
        if inner.suffix == ".tar":
            for image in inner_members(path, member, listing.doubts.append):
                _add(
                    listing,
                    PurePosixPath(image.name),
                    Place(path, image.offset, image.size),
                    flat=flat,
                    class_name=None if flat else inner.stem,
                )
        else:
            _add(listing, inner, Place(path, member.offset, member.size), flat=flat)
    return listing._replace(images=_without_common_root(listing.images))


def list_zip(path: Path, *, flat: bool = False) -> Listing:
    """List the images of a zip. The class of an image is the first folder on its path.

    Args:
        path: the zip.
        flat: whether folders are no classes.
    """
    listing = Listing([], Counter(), Counter(), [])
    for member in zip_members(path):
        _add(listing, member.name, member.content, flat=flat)
    return listing._replace(images=_without_common_root(listing.images))


def _add(
    listing: Listing,
    path: PurePosixPath,
    content: Place | Deflated,
    *,
    flat: bool,
    class_name: str | None = None,
) -> None:
    """Add a file, unless it is hidden or no image.

    Inside a class folder every file counts, so files that are not images are reported and not silently skipped.
    """
    if any(is_hidden(part) for part in path.parts):
        return
    suffix = path.suffix.lower()
    in_folder = len(path.parts) > 1 and not flat
    if suffix not in IMAGE_SUFFIXES:
        shown = readable(suffix) or "no suffix"
        if not in_folder:
            listing.skipped[shown] += 1
            return
        listing.tried[shown] += 1
    if suffix in IMAGE_SUFFIXES - KNOWN_SUFFIXES and isinstance(content, Place):
        content = OtherFormat(*content)
    if class_name is None and in_folder:
        class_name = path.parts[0]
    listing.images.append(ListedImage(class_name, path, content))


def _without_common_root(images: list[ListedImage]) -> list[ListedImage]:
    """Remove the first folder if a tar or a zip contains `train/CLASS/FILE`, so that the class is the second folder."""
    roots = {image.class_name for image in images}
    nested = all(len(image.path.parts) > 2 for image in images)
    if len(roots) != 1 or None in roots or not nested:
        return images
    return [
        image._replace(class_name=image.path.parts[1], path=PurePosixPath(*image.path.parts[1:]))
        for image in images
    ]
