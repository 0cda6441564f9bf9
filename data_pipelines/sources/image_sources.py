"""Sources of raw images. A source is a function that lists images, so a new source is one more function.

Listing reads only names and tar headers. The images are read later by the workers that write the shards.
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
    """An encoded image that is read, or made, only when a shard needs it.

    Its `repr` must be unique, because an interrupted build recognizes its source by it.
    """

    @property
    def size(self) -> int:
        """Size of the encoded image in bytes. It is an estimate if it is unknown before reading."""

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: it cannot be read.
            UnusableImage: the data is not an image.
        """


class Place(NamedTuple):
    """A range of bytes in a file."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the bytes; fewer if the file has become shorter."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Item(NamedTuple):
    """One image of a source."""

    key: str
    """Unique in the source. Consists of letters, digits, `-` and `_`."""
    content: Content | bytes
    """The encoded image, or an object that reads it."""
    label: int
    """Index into the source's classes. -1 without a label."""

    def read(self) -> bytes:
        """Return the encoded image."""
        return self.content if isinstance(self.content, bytes) else self.content.read()

    @property
    def size(self) -> int:
        """Size of the encoded image in bytes, or an estimate."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is exact."""
        return isinstance(self.content, bytes | Place)


class Source(NamedTuple):
    """All images of a source, with the names of their classes."""

    items: list[Item]
    classes: tuple[str, ...]
    runs: tuple[int, ...] = ()
    """Lengths of runs of consecutive items that are best read together, such as the row groups of a file. Empty: each
    item is read alone."""


class _Named(NamedTuple):
    class_name: str | None
    path: PurePosixPath
    place: Place


def open_source(path: Path, labels: Path | None = None) -> Source:
    """List a folder or a tar of any of the kinds below.

    A class is a folder, or an inner tar in a tar of tars. Classes are numbered in the order of their names. Images
    without class folders get their classes from `labels`, or none.

    Args:
        path: folder of class folders, tar of class folders, tar with one tar per class, or folder or tar of images.
        labels: file with the classes of images without class folders (see `labels.read_labels`).

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
            "there is no such file or folder", where=path, fix="give a folder, a tar, or `digits`"
        )
    if not named:
        raise UserError(
            "the source contains no images", where=path, fix="give the folder or tar that contains the images"
        )
    bare = [entry for entry in named if entry.class_name is None]
    if 0 < len(bare) < len(named):
        raise UserError(
            f"some images are in class folders, but {len(bare)} are not, such as {str(bare[0].path)!r}",
            where=path,
            fix="move every image into its class folder",
        )
    if labels is not None:
        if not bare:
            raise UserError("the images are already in class folders", where=path, fix="leave out --labels")
        read = read_labels(labels, [entry.path.name for entry in bare])
        bare = [entry._replace(class_name=read.class_of[entry.path.name]) for entry in bare]
        return _number(bare, read.classes)
    return _number(named, sorted({entry.class_name for entry in named if entry.class_name is not None}))


def digits() -> Mapping[str, Source]:
    """Return the 1,797 handwritten digits of scikit-learn, as `train` and `validation`.

    Each 8 x 8 image becomes a gray 32 x 32 JPEG. Every sixth image of each class is used for validation.
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
    # Links are followed, because subsets of large datasets are often folders of links to class folders.
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
    """Remove the first folder if a tar contains `train/CLASS/FILE`, so that the class is the second folder."""
    roots = {entry.class_name for entry in named}
    nested = all(len(entry.path.parts) > 2 for entry in named)
    if len(roots) != 1 or not nested:
        return named
    return [
        entry._replace(class_name=entry.path.parts[1], path=PurePosixPath(*entry.path.parts[1:]))
        for entry in named
    ]


def _is_wanted(path: PurePosixPath | Path) -> bool:
    """Return whether a file counts as an image. It must not be hidden. Outside of class folders, its suffix must match.

    Inside a class folder every file counts, so files that are not images are reported and not silently skipped.
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
    """Join class, folders and file name of an image."""
    folders = [part for part in entry.path.parts[:-1] if part != entry.class_name]
    stem = "-".join([*folders, entry.path.stem])
    return stem if not entry.class_name or stem.startswith(entry.class_name) else f"{entry.class_name}-{stem}"


def make_keys(names: Iterable[str]) -> Iterator[str]:
    """Yield a unique short key for each name. WebDataset ends a key at its first dot, and tar limits names to 100
    bytes."""
    keys: set[str] = set()
    for name in names:
        first = key = re.sub(r"[^A-Za-z0-9_-]", "_", name)[-_MAX_KEY:]
        copy = 1
        while key in keys:
            copy += 1
            key = f"{first}-{copy}"
        keys.add(key)
        yield key
