"""The samples of WebDataset shards: members with the same key.

The key is the name up to the first dot of its last part, and the rest is the extension, as in the webdataset package.
Members of a sample may lie apart. Hidden members, such as `._NAME` of macOS, are skipped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, readable
from data_pipelines.shards.index import BUILDING, DATASET
from data_pipelines.shards.tars import Member, Warn, members
from data_pipelines.sources.layout_doubts import SPLITS
from data_pipelines.walk import files_below, is_hidden_member

IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions of the images that training reads. The first that exists is used."""
DOTS_FIX = (
    "a key ends at the first dot of a name. Pack the shards again with names that have no other dot, such as "
    "n01440764_0001.jpg"
)
"""How to fix shards in which all names start alike up to a dot."""
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4")


class Sample(NamedTuple):
    """The members with one key."""

    key: str
    files: dict[str, Member]
    """Members by extension, in lower case."""


class ShardSamples(NamedTuple):
    """The samples of a shard."""

    samples: list[Sample]
    """In the order of their first members."""
    hidden: int
    """Number of hidden members."""


def shard_paths(folder: Path, warn: Warn = lambda _: None) -> list[Path]:
    """Return the tars of a folder, without hidden ones, sorted by name. If it has none, return those of its subfolders.

    Args:
        folder: the folder.
        warn: called with each doubt about the tars.

    Raises:
        UserError: there are none, compressed tars would be left out, or subfolders are sets of their own.
    """
    if not folder.is_dir():
        raise UserError(
            "there is no such folder",
            where=readable(folder),
            fix="give the folder that contains the .tar files, or build one: all4one data build SOURCE OUT",
        )
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    paths = [path for path in found if path.suffix == ".tar"]
    if not paths:
        found = sorted(files_below(folder), key=lambda path: path.relative_to(folder).as_posix())
        paths = [path for path in found if path.suffix == ".tar"]
        _require_one_set(folder, paths, warn)
    elif below := _tars_of_subfolders(folder):
        warn(
            f"{amount(below, 'tar in subfolders was', 'tars in subfolders were')} left out, because the folder itself "
            "has tars"
        )
    refuse_compressed([path for path in found if is_compressed_tar(path)], folder)
    if not paths:
        raise UserError(
            "the folder contains no .tar files", where=readable(folder), fix="give the folder of the shards"
        )
    return paths


def _tars_of_subfolders(folder: Path) -> int:
    with suppress(UserError):  # a subfolder that cannot be read has nothing to do with these shards
        return sum(path.suffix == ".tar" and path.parent != folder for path in files_below(folder))
    return 0


def _require_one_set(folder: Path, paths: Sequence[Path], warn: Warn) -> None:
    """Refuse subfolders that are sets of their own, and doubt those that have different names."""
    parents = list(dict.fromkeys(path.parent for path in paths))
    for parent in parents:
        names = parent.relative_to(folder).parts
        if own := next((name for name in names if name.lower() in SPLITS), None):
            raise UserError(
                f"its subfolder {readable(own)!r} looks like a part of a data set, which is a set of its own",
                where=readable(folder),
                fix=f"give the folder of one set, such as {readable(parent)}",
            )
        above = [parent, *parent.parents[: len(names) - 1]]
        if built := next(
            (path for path in above if (path / DATASET).exists() or (path / BUILDING).exists()), None
        ):
            raise UserError(
                f"its subfolder {readable(built.relative_to(folder))!r} is a set of its own",
                where=readable(folder),
                fix="train on several sets with a list in data.train, or write them as one: "
                "all4one data merge SETS OUT",
            )
    kinds = {re.sub(r"\d+", "", parent.relative_to(folder).as_posix()): parent for parent in parents}
    if len(kinds) > 1:
        one, other = (readable(parent.relative_to(folder)) for parent in list(kinds.values())[:2])
        warn(
            f"the folders {one} and {other} become parts of one set. The names of folders are no labels. If they are "
            "separate sets, index each"
        )


def is_compressed_tar(path: Path) -> bool:
    """Return whether a name is that of a compressed tar."""
    name = path.name.lower()
    return name.endswith((".tgz", ".tbz2", ".txz")) or (".tar." in name and name.endswith(_COMPRESSED))


def hidden_were_skipped(number: int) -> str:
    """Return a note on hidden members."""
    return (
        f"{amount(number, 'hidden member was', 'hidden members were')} skipped, such as the ._NAME of macOS"
    )


def refuse_compressed(packed: Sequence[Path], folder: Path) -> None:
    """Raise a UserError if compressed tars of a folder would be left out."""
    if packed:
        raise UserError(
            f"{amount(len(packed), 'tar is', 'tars are')} compressed, such as {readable(packed[0].name)!r}, and would "
            "be left out",
            where=readable(folder),
            fix="decompress them (gunzip *.tar.gz), because images are read by their position, or move them elsewhere",
        )


def split_name(name: str) -> tuple[str, str]:
    """Return key and extension of a member."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def read_samples(path: Path, warn: Warn = lambda _: None) -> ShardSamples:
    """List the samples of a shard.

    Several complete samples may have the same key if each has its own image and the same extensions.

    Args:
        path: the tar.
        warn: called with each doubt about the tar.

    Raises:
        UserError: the tar is refused (see `tars.members`), or it cannot be decided which members form a sample.
    """
    listed = list(members(path, warn))
    seen = [member for member in listed if not is_hidden_member(member.name)]
    return ShardSamples(group_samples(path, seen), len(listed) - len(seen))


def group_samples(path: Path, listed: Sequence[Member]) -> list[Sample]:
    """Return the samples of members.

    Args:
        path: the tar, for messages.
        listed: its members, without hidden ones.

    Raises:
        UserError: it cannot be decided which members form a sample.
    """
    runs: dict[str, list[dict[str, Member]]] = {}
    for key, group in groupby(listed, key=lambda member: split_name(member.name)[0]):
        files: dict[str, Member] = {}
        for member in group:
            extension = split_name(member.name)[1]
            if extension in files:
                raise _repeated(path, member)
            files[extension] = member
        runs.setdefault(key, []).append(files)
    samples = [Sample(key, files) for key, parts in runs.items() for files in _joined(path, parts)]
    if any(len(parts) > 1 for parts in runs.values()):
        samples.sort(key=lambda sample: min(member.offset for member in sample.files.values()))
    return samples


def choose_image(files: Mapping[str, object], extensions: Sequence[str] = IMAGES) -> str | None:
    """Return the extension of the member that is the sample's image, or None if there is none."""
    return next((name for name in extensions if name in files), None)


def choose_ending(files: Mapping[str, object], endings: Sequence[str]) -> str | None:
    """Return the only extension that ends with one of these, such as `input.jpg`. None if there is none, or several."""
    found = [name for name in files if name.rpartition(".")[2] in endings]
    return found[0] if len(found) == 1 else None


def _joined(path: Path, parts: list[dict[str, Member]]) -> Iterator[dict[str, Member]]:
    """Join the members of one key that lie apart, unless they are several complete samples."""
    names = [set(files) for files in parts]
    if len(parts) > 1 and choose_image(parts[0]) and all(other == names[0] for other in names):
        yield from parts
        return
    joined: dict[str, Member] = {}
    for files in parts:
        if again := joined.keys() & files.keys():
            raise _repeated(path, files[min(again)])
        joined |= files
    yield joined


def _repeated(path: Path, member: Member) -> UserError:
    key, extension = split_name(member.name)
    return UserError(
        f"{readable(key)!r} has several members .{readable(extension)}, so its samples cannot be told apart",
        where=readable(path),
        fix="pack the shard again: give each sample its own name without dots before the extension, and write its "
        "files one after the other, such as a1.jpg a1.cls a2.jpg a2.cls (tar --sort=name)",
    )
