"""Folders of tars as sources: WebDataset shards, or one tar for each class.

Shards have members beside their images, such as `.cls`. In a tar of a class, the names of the images begin with the
name of the tar, or the names of the tars are no numbers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, counted, readable
from data_pipelines.imaging.foreign import IMAGE_SUFFIXES, KNOWN_SUFFIXES
from data_pipelines.shards.index import CLASSES
from data_pipelines.shards.tars import Member, members
from data_pipelines.sources.classes import ordered_classes, read_classes, sorts_otherwise
from data_pipelines.sources.image_listing import ListedImage, Listing
from data_pipelines.sources.image_sources import LabelOptions, number_images
from data_pipelines.sources.items import Item, OtherFormat, Place, Source, make_keys
from data_pipelines.sources.shard_label_sets import LabelScan, SetLabels, set_labels
from data_pipelines.sources.shard_labels import LABEL_FIELDS, ClassNames
from data_pipelines.sources.shard_samples import (
    DOTS_FIX,
    IMAGES,
    Sample,
    choose_ending,
    choose_image,
    group_samples,
    hidden_were_skipped,
    split_name,
)
from data_pipelines.walk import is_hidden_member

_IMAGES = (*IMAGES, *sorted(suffix[1:] for suffix in IMAGE_SUFFIXES - {f".{name}" for name in IMAGES}))
"""Extensions of images. The first that exists is used."""
_SIDECARS = ("json", "txt", "npy")


class _Tar(NamedTuple):
    path: Path
    members: list[Member]
    """Without hidden ones."""
    hidden: int
    doubts: list[str]


def open_tars(root: Path, splits: Mapping[str, Sequence[Path]], options: LabelOptions) -> dict[str, Source]:
    """List tars of a folder by split.

    Args:
        root: the folder.
        splits: the tars of each split.
        options: how the images get their classes.

    Raises:
        UserError: it cannot be decided whether the tars are shards or classes, they contain no images, or a tar or a
            label is refused.
    """
    read = {split: [_read(path) for path in paths] for split, paths in splits.items()}
    tars = [tar for listed in read.values() for tar in listed]
    if options.enabled and options.file is None and any(has_labels(tar.members) for tar in tars):
        return _shards(root, read, options)
    by_class = options.enabled and options.file is None and len(tars) > 1 and _are_classes(root, tars)
    return {
        split: number_images(root, _listing(listed, by_class=by_class), options)
        for split, listed in read.items()
    }


def open_shard(path: Path, options: LabelOptions) -> Source:
    """List a single WebDataset shard."""
    return _shards(path, {"": [_read(path)]}, options)[""]


def has_labels(listed: Sequence[Member]) -> bool:
    """Return whether a tar holds samples of WebDataset with members that may be labels."""
    images = {split_name(member.name)[0] for member in listed if _suffix(member) in IMAGE_SUFFIXES}
    for member in listed:
        key, extension = split_name(member.name)
        kind = extension.rpartition(".")[2]
        if key in images and (kind == "cls" or (extension in _SIDECARS and "/" not in key)):
            return True
    return False


def _read(path: Path) -> _Tar:
    doubts: list[str] = []
    listed = list(members(path, doubts.append))
    seen = [member for member in listed if not is_hidden_member(member.name)]
    return _Tar(path, seen, len(listed) - len(seen), doubts)


def _suffix(member: Member) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _are_classes(root: Path, tars: Sequence[_Tar]) -> bool:
    """Return whether each tar is a class.

    Raises:
        UserError: the tars have no labels and could be shards as well.
    """
    images = [
        (tar, PurePosixPath(m.name).name) for tar in tars for m in tar.members if _suffix(m) in IMAGE_SUFFIXES
    ]
    if images and all(name.startswith(tar.path.stem) for tar, name in images):
        return True
    if not any(re.search(r"\d$", tar.path.stem) for tar in tars):
        return True
    raise UserError(
        "the tars could be one class each, or shards without labels. Looked for .cls, .json, .txt and .npy beside the "
        "images, and for image names that begin with the name of the tar",
        where=readable(root),
        fix="for shards without labels add --no-labels, or --labels FILE; for one class per tar, pack the tars into "
        "one and build that: tar -cf classes.tar *.tar",
    )


def _listing(tars: Sequence[_Tar], *, by_class: bool) -> Listing:
    listing = Listing([], Counter(), Counter(), [doubt for tar in tars for doubt in tar.doubts])
    for tar in tars:
        for member in tar.members:
            suffix = _suffix(member)
            if suffix in IMAGE_SUFFIXES:
                name = tar.path.stem if by_class else None
                listing.images.append(ListedImage(name, PurePosixPath(member.name), _place(tar.path, member)))
            else:
                listing.skipped[readable(suffix) or "no suffix"] += 1
    return listing


def _place(path: Path, member: Member) -> Place:
    place = Place(path, member.offset, member.size)
    return OtherFormat(*place) if _suffix(member) in IMAGE_SUFFIXES - KNOWN_SUFFIXES else place


def _shards(root: Path, splits: Mapping[str, Sequence[_Tar]], options: LabelOptions) -> dict[str, Source]:
    folder = root if root.is_dir() else root.parent
    if options.classes is not None:
        names, where = read_classes(options.classes), str(options.classes)
    else:
        names, where = read_classes(folder / CLASSES, missing_ok=True), CLASSES
    known = ClassNames(names, where) if names else None
    fields = LABEL_FIELDS if options.column is None else (options.column,)
    notes = [doubt for tars in splits.values() for tar in tars for doubt in tar.doubts]
    samples = {tar.path: group_samples(tar.path, tar.members) for tars in splits.values() for tar in tars}
    # Longer extensions, such as `input.jpg`, are images only if there are no others.
    endings = not any(choose_image(sample.files, _IMAGES) for listed in samples.values() for sample in listed)
    left_out: list[Sample] = []
    scans, keys, places = [], dict[str, list[str]](), dict[str, list[Place]]()
    for split, tars in splits.items():
        keys[split], places[split] = [], []
        for tar in tars:
            scan = LabelScan(tar.path, known, fields)
            for sample, image in _images(samples[tar.path], endings, left_out):
                scan.add(sample)
                keys[split].append(_key(image))
                places[split].append(_place(tar.path, image))
            scans.append(scan.result())
    if not any(keys.values()):
        raise _no_images(root, left_out)
    found = set_labels(scans, known, warn=notes.append)
    if left_out:
        notes.append(
            f"{amount(len(left_out), 'sample has no image and was', 'samples have no image and were')} left out. "
            f"Their members: {_members(left_out)}"
        )
    if hidden := sum(tar.hidden for tars in splits.values() for tar in tars):
        notes.append(hidden_were_skipped(hidden))
    found = _in_numeric_order(found, options, known is not None, notes)
    return dict(_cut(keys, places, found, notes))


def _key(image: Member) -> str:
    path = PurePosixPath(image.name)
    return "-".join([*path.parts[:-1], path.stem])


def _images(samples: Sequence[Sample], endings: bool, left_out: list[Sample]) -> list[tuple[Sample, Member]]:
    """Return the samples of a shard and their images, in the order of the names of the images."""
    found = []
    for sample in samples:
        name = choose_image(sample.files, _IMAGES) or (
            choose_ending(sample.files, _IMAGES) if endings else None
        )
        if name is None:
            left_out.append(sample)
        else:
            found.append((sample, sample.files[name]))
    return sorted(found, key=lambda entry: entry[1].name)


def _members(samples: Sequence[Sample]) -> str:
    return counted(Counter(_last(extension) for sample in samples for extension in sample.files))


def _last(extension: str) -> str:
    return f".{readable(extension.rpartition('.')[2])}" if extension else "no extension"


def _no_images(root: Path, samples: Sequence[Sample]) -> UserError:
    images = sum(name.rpartition(".")[2] in _IMAGES for sample in samples for name in sample.files)
    what = (
        f"the shards contain no images. Their members: {_members(samples)}"
        if samples
        else "the shards are empty"
    )
    fix = DOTS_FIX if images > len(samples) else "give shards with images"
    return UserError(what, where=readable(root), fix=fix)


def _in_numeric_order(found: SetLabels, options: LabelOptions, known: bool, notes: list[str]) -> SetLabels:
    """Return the labels with class names sorted by value if that is wanted, and doubt the order if it is not."""
    if known or not found.classes:
        return found
    if not options.numeric:
        if sorts_otherwise(found.classes) and list(found.classes) == sorted(found.classes):
            notes.append(
                "the classes are numbers but are sorted as text. To sort them by value, add --numeric-classes"
            )
        return found
    classes = ordered_classes(found.classes, numeric=True)
    moved = [classes.index(name) for name in found.classes]
    numbers = found.numbers.copy()
    for old, new in enumerate(moved):
        numbers[found.numbers == old] = new
    return SetLabels(numbers, tuple(classes))


def _cut(
    keys: Mapping[str, Sequence[str]],
    places: Mapping[str, Sequence[Place]],
    found: SetLabels,
    notes: Sequence[str],
) -> Iterator[tuple[str, Source]]:
    start = 0
    for split, names in keys.items():
        numbers = found.numbers[start : start + len(names)].tolist()
        items = [
            Item(key, place, label)
            for key, place, label in zip(make_keys(names), places[split], numbers, strict=True)
        ]
        yield split, Source(items, found.classes, notes=tuple(notes) if start == 0 else ())
        start += len(names)
