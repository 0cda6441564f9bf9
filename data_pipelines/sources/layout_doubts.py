"""Doubts about the classes of a source: layouts that are listed, but probably mean something else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.formatting import readable
from data_pipelines.sources.classes import sorts_otherwise
from data_pipelines.sources.image_listing import ListedImage

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "dev", "extra", "unlabeled")
_LABEL_SUFFIXES = {".txt", ".csv", ".tsv"}
_LABEL_WORDS = ("label", "annotation", "ground_truth", "solution")


def class_doubts(
    path: Path, images: Sequence[ListedImage], classes: Sequence[str], *, numeric: bool, from_file: bool
) -> Iterator[str]:
    """Yield doubts about the classes that were found.

    Args:
        path: the source.
        images: its images.
        classes: their classes.
        numeric: whether classes are sorted by their values.
        from_file: whether the classes are from a label file.
    """
    where = readable(path)
    if not from_file and len(classes) > 1 and all(name.lower() in SPLITS for name in classes):
        commands = ", ".join(
            f"`all4one data build {where}/{readable(name)} OUT/{readable(name)}`" for name in classes
        )
        yield (
            f"the classes are {', '.join(map(repr, classes))}, which look like parts of a data set. Build each part: "
            f"{commands}"
        )
    elif not from_file and len(classes) == 1:
        yield f"all images are in the folder {readable(classes[0])!r}, so there is one class. {_meant(path, images)}"
    if not numeric and sorts_otherwise(classes):
        yield (
            f"the classes are numbers but are sorted as text: {', '.join(classes[:4])}, … Their labels differ from "
            "their names. To sort them by value, add --numeric-classes"
        )


def unlabeled_doubts(path: Path) -> Iterator[str]:
    """Yield doubts about images without classes."""
    if (labels := _label_file(path)) is not None:
        yield (
            f"the images have no classes, but there is {readable(labels)}. If it holds them: `all4one data build "
            f"{readable(path)} OUT --labels {readable(labels)}`"
        )


def _meant(path: Path, images: Sequence[ListedImage]) -> str:
    where, name = readable(path), readable(images[0].class_name or "")
    folders = {image.path.parts[1] for image in images if len(image.path.parts) > 2}
    if len(folders) > 1 and all(len(image.path.parts) > 2 for image in images):
        return f"If its folders are the classes: `all4one data build {where}/{name} OUT`"
    if (labels := _label_file(path)) is not None:
        return f"If a file names the classes: `all4one data build {where} OUT --labels {readable(labels)}`"
    return (
        "If a file names the classes, add --labels FILE. If there are none: "
        f"`all4one data build {where} OUT --no-labels`"
    )


def _label_file(path: Path) -> Path | None:
    """Return a file in or beside a folder that looks like a list of labels."""
    folders = (path, path.parent) if path.is_dir() else (path.parent,)
    for folder in folders:
        try:
            listed = sorted(folder.iterdir())
        except OSError:
            continue
        for file in listed:
            if file.suffix.lower() in _LABEL_SUFFIXES and any(
                word in file.stem.lower() for word in _LABEL_WORDS
            ):
                return file
    return None
