"""Images of a source, with their labels. The images are read later by the workers that write the shards."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

_MAX_KEY = 90


class Content(Protocol):
    """An encoded image that is read, or made, only when a shard needs it.

    Its `repr` must be unique, because an interrupted build recognizes its source by it. An attribute `size_is_exact`
    that is true says that `size` is no estimate.
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

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is no estimate."""
        return True

    def read(self) -> bytes:
        """Read the bytes; fewer if the file has become shorter."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class OtherFormat(Place):
    """A range of bytes with an image of another format than shards hold. It is stored as PNG, so its size changes."""

    @property
    def size_is_exact(self) -> bool:
        """Whether `size` is no estimate."""
        return False


class Item(NamedTuple):
    """One image of a source."""

    key: str
    """Unique in the source. Consists of letters, digits, `-` and `_`, and of `/` between folders."""
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
        return isinstance(self.content, bytes) or getattr(self.content, "size_is_exact", False)


class Source(NamedTuple):
    """All images of a source, with the names of their classes."""

    items: list[Item]
    classes: tuple[str, ...]
    runs: tuple[int, ...] = ()
    """Lengths of runs of consecutive items that are best read together, such as the row groups of a file. Empty: each
    item is read alone."""
    notes: tuple[str, ...] = ()
    """What the user should know: what is left out, and doubts about the classes."""


def make_keys(names: Iterable[str], *, folders: bool = False) -> Iterator[str]:
    """Yield a unique short key for each name. WebDataset ends a key at its first dot, and tar limits names to 100
    bytes.

    Args:
        names: names of the images, without suffix.
        folders: whether keys keep the folders of their names.
    """
    other = re.compile(r"[^A-Za-z0-9_/-]" if folders else r"[^A-Za-z0-9_-]")
    keys: set[str] = set()
    copies: dict[str, int] = {}
    for name in names:
        first = key = other.sub("_", name)[-_MAX_KEY:].lstrip("/")
        copy = copies.get(first, 1)
        while key in keys:
            copy += 1
            key = f"{first}-{copy}"
        if copy > 1:
            copies[first] = copy
        keys.add(key)
        yield key
