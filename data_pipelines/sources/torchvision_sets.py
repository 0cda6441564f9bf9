"""Datasets of torchvision by name, downloaded and read by its own classes.

Datasets of image files keep their bytes. Arrays are encoded losslessly as PNG by the workers that write the shards.
"""

import difflib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.sources.image_sources import Item, Place, Source, make_keys

Parts = Mapping[str, Source]


class Pixels(NamedTuple):
    """Pixels of an array dataset, as a PNG."""

    stored: Place | bytes
    """Rows of uint8 in the dataset's own layout."""
    shape: tuple[int, int, int]
    """Shape of the stored array."""
    axes: tuple[int, int, int]
    """The axes of height, width and channels in it."""

    @property
    def size(self) -> int:
        """Bytes of the pixels. The PNG is slightly smaller for pictures, and slightly larger for noise."""
        return len(self.stored) if isinstance(self.stored, bytes) else self.stored.size

    def read(self) -> bytes:
        """Return the PNG.

        Raises:
            OSError: the pixels cannot be read.
            UnusableImage: their file has become shorter.
        """
        stored = self.stored if isinstance(self.stored, bytes) else self.stored.read()
        if len(stored) != np.prod(self.shape):
            raise UnusableImage("truncated")
        pixels = np.frombuffer(stored, np.uint8).reshape(self.shape).transpose(self.axes)  # [H, W, 3]
        png = BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(png, "PNG")
        return png.getvalue()


def open_set(name: str, root: Path, *, download: bool) -> Parts:
    """List a dataset: `train`, `validation`, and further parts if it has some.

    Args:
        name: one of `NAMES`.
        root: folder in which torchvision stores the dataset, or downloads it to.
        download: whether to download it if it is missing.

    Raises:
        UserError: there is no dataset of this name, or it cannot be downloaded or read.
    """
    if name not in _SETS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise UserError(
            f"torchvision:{name} is not among the supported datasets: {', '.join(NAMES)}",
            fix=f"did you mean torchvision:{near[0]}?" if near else "choose one of these",
        )
    own = root / f"torchvision-{name}"
    if not download or own.exists():
        return _read(_SETS[name], own if own.exists() else root)
    try:
        return _SETS[name](root, False)
    except Exception:  # the exception for a missing dataset differs by dataset
        pass
    # Some torchvision classes accept a half-unpacked dataset, so it is renamed to its final name at the end.
    fetched = root / f".{name}.download"
    try:  # network (URLError, HTTPException), checksum (RuntimeError) and disk raise different exceptions
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        _SETS[name](fetched, True)
        fetched.replace(own)
    except Exception as error:
        raise UserError(
            f"the dataset cannot be downloaded: {type(error).__name__}: {error}",
            where=root,
            fix="check network and disk, or download the dataset elsewhere and give its folder: --root FOLDER",
        ) from error
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return _read(_SETS[name], own)


def _read(make: Callable[[Path, bool], Parts], root: Path) -> Parts:
    try:
        return make(root, False)
    except Exception as error:  # the exception for a broken or missing dataset differs by dataset
        raise UserError(
            f"the dataset cannot be read: {type(error).__name__}: {error}",
            where=root,
            fix="give the folder in which torchvision stores the dataset: --root FOLDER; if it is broken, "
            "remove it and download it again: --download",
        ) from error


def _listed(dataset: Any) -> Iterable[tuple[str, int]]:
    return (dataset[number] for number in range(len(dataset)))


def _files(
    kind: Callable[..., Any],
    splits: Mapping[str, str],
    *,
    classes: Callable[[Any], Sequence[str]] = lambda dataset: dataset.classes,
    files: Callable[[Any], Iterable[tuple[str | Path, int]]] = _listed,
    **arguments: object,
) -> Callable[[Path, bool], Parts]:
    """Return a reader for a dataset of files with splits.

    Args:
        kind: torchvision's class.
        splits: torchvision's name of each part.
        classes: names of the classes of a split.
        files: path and label of each image of a split.
        arguments: further arguments of the class.
    """

    def make(root: Path, download: bool) -> Parts:
        parts = {}
        for part, split in splits.items():
            dataset = kind(root, split=split, download=download, **arguments)
            names = tuple(classes(dataset))
            places = [
                (Place(Path(path), 0, Path(path).stat().st_size), label) for path, label in files(dataset)
            ]
            keys = make_keys(f"{names[label]}-{place.file.stem}" for place, label in places)
            items = [Item(key, place, label) for key, (place, label) in zip(keys, places, strict=True)]
            parts[part] = Source(items, names)
        return parts

    return make


def _cifar(kind: Callable[..., Any]) -> Callable[[Path, bool], Parts]:
    def make(root: Path, download: bool) -> Parts:
        parts = {}
        for part, train in (("train", True), ("validation", False)):
            dataset = kind(root, train=train, download=download)
            # dataset.data is [N, 32, 32, 3]
            parts[part] = _arrays(part, dataset.data, (0, 1, 2), dataset.targets, dataset.classes)
        return parts

    return make


def _svhn(root: Path, download: bool) -> Parts:
    parts = {}
    for part, split in (("train", "train"), ("validation", "test")):
        dataset = datasets.SVHN(root, split=split, download=download)
        # dataset.data is [N, 3, 32, 32]
        parts[part] = _arrays(
            part, dataset.data, (1, 2, 0), dataset.labels, [str(digit) for digit in range(10)]
        )
    return parts


def _stl10(root: Path, download: bool) -> Parts:
    """Read STL-10. Its three pixel files of 3 GB stay in place. torchvision checks them and reads one."""
    dataset = datasets.STL10(root, split="test", download=download)
    folder = root / dataset.base_folder
    shape = (3, 96, 96)  # color, column, row
    size = int(np.prod(shape))
    parts = {}
    for part, pixels, labels in (
        ("train", "train_X.bin", "train_y.bin"),
        ("validation", "test_X.bin", "test_y.bin"),
        ("unlabeled", "unlabeled_X.bin", None),
    ):
        count = (folder / pixels).stat().st_size // size
        targets = np.fromfile(folder / labels, np.uint8).astype(int) - 1 if labels else np.full(count, -1)
        items = [
            Item(
                f"{part}-{number:06d}",
                Pixels(Place(folder / pixels, number * size, size), shape, (2, 1, 0)),
                label,
            )
            for number, label in enumerate(targets.tolist())
        ]
        parts[part] = Source(items, tuple(dataset.classes) if labels else ())
    return parts


def _arrays(
    part: str,
    data: NDArray[np.uint8],
    axes: tuple[int, int, int],
    labels: Iterable[int],
    classes: Sequence[str],
) -> Source:
    """A part that is one array: `[N, …]` with height, width and channels at `axes` of an image."""
    shape = data.shape[1:]
    items = [
        Item(f"{part}-{number:06d}", Pixels(pixels.tobytes(), shape, axes), int(label))
        for number, (pixels, label) in enumerate(zip(data, labels, strict=True))
    ]
    return Source(items, tuple(classes))


_THREE = {"train": "train", "validation": "val", "test": "test"}
# `str` replaces the function that loads an image, so a sample is its path and its label.
_SETS: dict[str, Callable[[Path, bool], Parts]] = {
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "country211": _files(datasets.Country211, {**_THREE, "validation": "valid"}, loader=str),
    "dtd": _files(datasets.DTD, _THREE, loader=str),
    "fgvc_aircraft": _files(datasets.FGVCAircraft, _THREE, loader=str),
    "flowers102": _files(datasets.Flowers102, _THREE, loader=str),
    "food101": _files(datasets.Food101, {"train": "train", "validation": "test"}, loader=str),
    "imagenette": _files(
        datasets.Imagenette,
        {"train": "train", "validation": "val"},
        classes=lambda dataset: dataset.wnids,
        loader=str,
    ),
    "oxford_pets": _files(
        datasets.OxfordIIITPet,
        {"train": "trainval", "validation": "test"},
        files=lambda dataset: zip(dataset._images, dataset._labels, strict=True),
    ),
    "stl10": _stl10,
    "svhn": _svhn,
}
NAMES = tuple(_SETS)
"""Names of the datasets."""
