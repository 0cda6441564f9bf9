"""Where raw images come from. A source is a function that lists images; a new one is one function more.

Listing looks at names and tar headers only. The images are read later, by the workers that write the shards.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.shards.tars import inner_members, members
from data_pipelines.sources.labels import read_labels
from data_pipelines.walk import files_below, is_hidden

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_MAX_KEY = 90


class Content(Protocol):
    """An encoded image that is read, or made, only when a shard takes it.

    Its `repr` tells it from all others: an interrupted build knows its source by it.
    """

    @property
    def size(self) -> int:
        """Bytes of the encoded image; a guess where they are not known before it is read."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: it cannot be read.
            UnusableImage: what is read is no image.
        """


class Place(NamedTuple):
    """Bytes of a file."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; fewer where the file has become shorter."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Item(NamedTuple):
    """One image of a source."""

    key: str
    """Unique in the source; letters, digits, `-` and `_`."""
    content: Content | bytes
    """The encoded image, or how to come by it."""
    label: int
    """Index into the source's classes; -1 without one."""

    def read(self) -> bytes:
        """The encoded image."""
        return self.content if isinstance(self.content, bytes) else self.content.read()

    @property
    def size(self) -> int:
        """Bytes of the encoded image, or a guess."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is no guess."""
        return isinstance(self.content, bytes | Place)


class Source(NamedTuple):
    """All images of a source with the names of their classes."""

    items: list[Item]
    classes: tuple[str, ...]
    runs: tuple[int, ...] = ()
    """Numbers of neighboring items that are best read together, such as the row groups of a file; empty: each
    item is read alone."""


class _Named(NamedTuple):
    class_name: str | None
    path: PurePosixPath
    place: Place


def open_source(path: Path, labels: Path | None = None) -> Source:
    """List a folder or a tar, whichever kind of those below it is.

    A class is a folder (or, in a tar of tars, an inner tar); classes are numbered in the order of their names.
    Images without class folders get their classes from `labels`, or none.

    Args:
        path: folder of class folders, tar of class folders, tar of one tar a class, or folder or tar of images.
        labels: file that tells the classes of images without class folders (see `labels.read_labels`).

    Raises:
        UserError: the source is missing, empty or mixed, or its tar or labels are refused (see `tars.members`
            and `labels.read_labels`).
    """
    if path.is_dir():
        named = _from_folder(path)
    elif path.is_file():
        named = _from_tar(path)
    else:
        raise UserError(
            "there is no such file or folder", where=path, fix="name a folder, a tar, or `digits`"
        )
    if not named:
        raise UserError(
            "the source holds no images", where=path, fix="name the folder or tar that holds them"
        )
    bare = [entry for entry in named if entry.class_name is None]
    if 0 < len(bare) < len(named):
        raise UserError(
            f"some images lie in class folders and {len(bare)} do not, such as {str(bare[0].path)!r}",
            where=path,
            fix="move every image into the folder of its class",
        )
    if labels is not None:
        if not bare:
            raise UserError("the images have class folders already", where=path, fix="leave out --labels")
        read = read_labels(labels, [entry.path.name for entry in bare])
        bare = [entry._replace(class_name=read.class_of[entry.path.name]) for entry in bare]
        return _number(bare, read.classes)
    return _number(named, sorted({entry.class_name for entry in named if entry.class_name is not None}))


def digits() -> Mapping[str, Source]:
    """The 1,797 handwritten digits that come with scikit-learn, as `train` and `validation`.

    Each 8 x 8 image becomes a gray 32 x 32 JPEG. Of every class each sixth image is for validation.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    seen: Counter[int] = Counter()
    items: dict[str, list[Item]] = {"train": [], "validation": []}
    for number, (pixels, target) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        label = int(target)
        part = "validation" if seen[label] % 6 == 5 else "train"
        seen[label] += 1
        gray = Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        jpeg = BytesIO()
        gray.save(jpeg, "JPEG", quality=95)
        items[part].append(Item(f"digit-{label}-{number:04d}", jpeg.getvalue(), label))
    classes = tuple(str(name) for name in bunch.target_names)
    return {part: Source(listed, classes) for part, listed in items.items()}


def _from_folder(root: Path) -> list[_Named]:
    named = []
    # Subsets of large sets are often folders of links to class folders: links are followed.
    for path in files_below(root):
        inner = path.relative_to(root)
        if _is_wanted(inner):
            class_name = inner.parts[0] if len(inner.parts) > 1 else None
            named.append(_Named(class_name, PurePosixPath(inner), Place(path, 0, path.stat().st_size)))
    return named


def _from_tar(path: Path) -> list[_Named]:
    named = []
    for member in members(path):
        inner = PurePosixPath(member.name)
        if inner.suffix == ".tar":
            for image in inner_members(path, member):
                if _is_wanted(PurePosixPath(image.name)):
                    place = Place(path, image.offset, image.size)
                    named.append(_Named(inner.stem, PurePosixPath(image.name), place))
        elif _is_wanted(inner):
            class_name = inner.parts[0] if len(inner.parts) > 1 else None
            named.append(_Named(class_name, inner, Place(path, member.offset, member.size)))
    return _without_common_root(named)


def _without_common_root(named: list[_Named]) -> list[_Named]:
    """Where a tar packs `train/CLASS/FILE`, the class is the second folder."""
    roots = {entry.class_name for entry in named}
    nested = all(len(entry.path.parts) > 2 for entry in named)
    if len(roots) != 1 or not nested:
        return named
    return [
        entry._replace(class_name=entry.path.parts[1], path=PurePosixPath(*entry.path.parts[1:]))
        for entry in named
    ]


def _is_wanted(path: PurePosixPath | Path) -> bool:
    """Whether a file counts as an image: not hidden; beside the class folders, only by its suffix.

    Inside a class folder every file counts, so that what is no image is reported and not passed over.
    """
    if any(is_hidden(part) for part in path.parts):
        return False
    return len(path.parts) > 1 or path.suffix.lower() in IMAGE_SUFFIXES


def _number(named: list[_Named], classes: Sequence[str]) -> Source:
    labels: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    ordered = sorted(named, key=lambda e: (e.class_name or "", e.path.as_posix()))
    keys = make_keys(_long_name(entry) for entry in ordered)
    items = [
        Item(key, entry.place, labels.get(entry.class_name, -1))
        for key, entry in zip(keys, ordered, strict=True)
    ]
    return Source(items, tuple(classes))


def _long_name(entry: _Named) -> str:
    """Class, folders and file of an image in one."""
    folders = [part for part in entry.path.parts[:-1] if part != entry.class_name]
    stem = "-".join([*folders, entry.path.stem])
    return stem if not entry.class_name or stem.startswith(entry.class_name) else f"{entry.class_name}-{stem}"


def make_keys(names: Iterable[str]) -> Iterator[str]:
    """A short key for each name, no two alike: WebDataset ends a key at its first dot, tar a name at 100 bytes."""
    keys: set[str] = set()
    for name in names:
        first = key = re.sub(r"[^A-Za-z0-9_-]", "_", name)[-_MAX_KEY:]
        copy = 1
        while key in keys:
            copy += 1
            key = f"{first}-{copy}"
        keys.add(key)
        yield key
