"""Sources of raw images: folders, tars and zips, with or without class folders.

Listing reads only names and headers. The images are read later by the workers that write the shards.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, readable
from data_pipelines.sources.classes import ordered_classes, read_classes
from data_pipelines.sources.image_listing import ListedImage, Listing, list_folder, list_tar, list_zip
from data_pipelines.sources.items import Content, Item, Place, Source, make_keys
from data_pipelines.sources.labels import read_labels
from data_pipelines.sources.layout_doubts import class_doubts, unlabeled_doubts

__all__ = [
    "Content",
    "Item",
    "LabelOptions",
    "Place",
    "Source",
    "digits",
    "make_keys",
    "number_images",
    "open_source",
    "require_known",
]


class LabelOptions(NamedTuple):
    """How the images of a source get their classes."""

    file: Path | None = None
    """File with the classes of the images (see `labels.read_labels`). It replaces class folders."""
    enabled: bool = True
    """Whether images have labels."""
    column: str | None = None
    """Name of the column or field that holds the label. None: the usual names."""
    classes: Path | None = None
    """File with the class names in the order of their numbers."""
    numeric: bool = False
    """Whether class names are numbers and are sorted by their values."""


def open_source(
    path: Path,
    labels: Path | None = None,
    options: LabelOptions = LabelOptions(),  # noqa: B008
) -> Source:
    """List a folder, a tar or a zip of any of the kinds below.

    A class is a folder, or an inner tar in a tar of tars. Classes are numbered in the order of their names. Images
    without class folders get their classes from `labels`, or none.

    Args:
        path: folder, tar or zip of class folders or of images, or tar with one tar per class.
        labels: file with the classes of the images (see `labels.read_labels`). It replaces `options.file`.
        options: how the images get their classes.

    Raises:
        UserError: the source is missing, empty or mixed, or its tar or labels are refused (see `tars.members`
            and `labels.read_labels`).
    """
    if labels is not None:
        options = options._replace(file=labels)
    flat = options.file is not None or not options.enabled
    if path.is_dir():
        listing = list_folder(path, flat=flat)
    elif path.is_file():
        listing = (list_zip if path.suffix.lower() == ".zip" else list_tar)(path, flat=flat)
    else:
        raise UserError(
            "there is no such file or folder",
            where=readable(path),
            fix="give a folder, a tar, a zip, or `digits`",
        )
    return number_images(path, listing, options)


def number_images(path: Path, listing: Listing, options: LabelOptions) -> Source:
    """Give the images of a source their classes.

    Args:
        path: the source.
        listing: its images.
        options: how the images get their classes.

    Raises:
        UserError: there are no images, only some are in class folders, or labels are refused.
    """
    images, notes = listing.images, list(listing.notes())
    if not images:
        raise UserError(
            "the source contains no images" + (f", but {listing.skipped_text()}" if listing.skipped else ""),
            where=readable(path),
            fix="give the folder, tar or zip that contains the images",
        )
    if options.column is not None and options.file is None:
        raise UserError(
            "the source has no columns or fields of labels",
            where=readable(path),
            fix="leave out --label-column, or add --labels FILE",
        )
    if not options.enabled:
        return _numbered([image._replace(class_name=None) for image in images], [], notes)
    if options.file is not None:
        read = read_labels(
            options.file,
            [str(image.path) for image in images],
            column=options.column,
            numeric=options.numeric,
        )
        images = [image._replace(class_name=read.class_of[str(image.path)]) for image in images]
        classes = list(read.classes)
        notes += read.notes
    else:
        _require_all_in_folders(path, images)
        found = {image.class_name for image in images if image.class_name is not None}
        classes = ordered_classes(found, numeric=options.numeric)
    if options.classes is not None:
        classes = require_known(classes, options.classes)
    elif classes:
        notes += class_doubts(
            path, images, classes, numeric=options.numeric, from_file=options.file is not None
        )
    else:
        notes += unlabeled_doubts(path)
    return _numbered(images, classes, notes)


def require_known(found: Sequence[str], path: Path) -> list[str]:
    """Return the class names in a file. All classes that were found must be among them.

    Raises:
        UserError: one is not, or the file is refused.
    """
    names = read_classes(path)
    if unknown := [name for name in found if readable(name) not in set(names)]:
        raise UserError(
            f"{amount(len(unknown), 'class of the source is', 'classes of the source are')} not in the file, such as "
            f"{readable(unknown[0])!r}",
            where=path,
            fix="add them, one per line",
        )
    raw = {readable(name): name for name in found}
    return [raw.get(name, name) for name in names]


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


def _require_all_in_folders(path: Path, images: Sequence[ListedImage]) -> None:
    bare = [image for image in images if image.class_name is None]
    if 0 < len(bare) < len(images):
        raise UserError(
            f"some images are in class folders, but {len(bare)} are not, such as {readable(str(bare[0].path))!r}",
            where=readable(path),
            fix="move every image into its class folder, or use --no-labels",
        )


def _numbered(images: Sequence[ListedImage], classes: Sequence[str], notes: Sequence[str]) -> Source:
    labels: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    ordered = sorted(images, key=lambda e: (e.class_name or "", e.path.as_posix()))
    keys = make_keys(_long_name(entry) for entry in ordered)
    items = [
        Item(key, entry.content, labels.get(entry.class_name, -1))
        for key, entry in zip(keys, ordered, strict=True)
    ]
    return Source(items, tuple(readable(name) for name in classes), notes=tuple(notes))


def _long_name(entry: ListedImage) -> str:
    """Join class, folders and file name of an image."""
    folders = [part for part in entry.path.parts[:-1] if part != entry.class_name]
    stem = "-".join([*folders, entry.path.stem])
    return stem if not entry.class_name or stem.startswith(entry.class_name) else f"{entry.class_name}-{stem}"
