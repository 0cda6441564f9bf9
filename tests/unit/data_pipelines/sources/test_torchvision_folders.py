import json
from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.io
from torchvision import datasets
from torchvision_folders import md5, put

from data_pipelines.errors import UserError
from data_pipelines.sources.image_sources import Place
from data_pipelines.sources.torchvision_sets import NAMES, open_set


def folders(root: Path, kinds: tuple[str, ...], suffix: str) -> None:
    """Class folders inside of folders of splits."""
    for kind in kinds:
        for label in ("n01440764", "n02102040"):
            put(root / kind / label / f"{label}_1.{suffix}", f"{kind} {label}")


def imagenette(root: Path, _: pytest.MonkeyPatch) -> None:
    folders(root / "imagenette2", ("train", "val"), "JPEG")


def country211(root: Path, _: pytest.MonkeyPatch) -> None:
    folders(root / "country211", ("train", "valid", "test"), "jpg")


def food101(root: Path, _: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        listed = {label: [f"{label}/{split}"] for label in ("apple_pie", "waffles")}
        put(root / "food-101" / "meta" / f"{split}.json", json.dumps(listed))
        for label in listed:
            put(root / "food-101" / "images" / label / f"{split}.jpg", f"{split} {label}")


def dtd(root: Path, _: pytest.MonkeyPatch) -> None:
    for split in ("train", "val", "test"):
        names = [f"{label}/{label}_{split}.jpg" for label in ("banded", "blotchy")]
        put(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(names))
        for name in names:
            put(root / "dtd" / "dtd" / "images" / name, f"{split} {name.split('/')[0]}")


def oxford_pets(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        names = {"great_pyrenees": 2, "Abyssinian": 1}
        lines = [f"{name}_{split} {label} 1 1" for name, label in names.items()]
        put(folder / "annotations" / f"{split}.txt", "\n".join(lines))
        for name in names:
            put(folder / "images" / f"{name}_{split}.jpg", f"{split} {name.replace('_', ' ').title()}")


def fgvc_aircraft(root: Path, _: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    put(folder / "variants.txt", "707-320\nF/A-18\n")
    for split in ("train", "val", "test"):
        put(folder / f"images_variant_{split}.txt", f"1{split} 707-320\n2{split} F/A-18\n")
        put(folder / "images" / f"1{split}.jpg", f"{split} 707-320")
        put(folder / "images" / f"2{split}.jpg", f"{split} F/A-18")


def flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    names = {1: "pink primrose", 102: "blackberry lily"}
    splits = {"train": [1, 4], "val": [2, 5], "test": [3, 6]}
    labels = [1, 1, 1, 102, 102, 102]
    for split, ids in splits.items():
        for number in ids:
            put(folder / "jpg" / f"image_{number:05d}.jpg", f"{split} {names[labels[number - 1]]}")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels})
    scipy.io.savemat(
        folder / "setid.mat", {"trnid": splits["train"], "valid": splits["val"], "tstid": splits["test"]}
    )
    sums = {"label": "imagelabels.mat", "setid": "setid.mat"}
    files = {kind: (name, md5(folder / name)) for kind, name in sums.items()}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)


FILE_SETS = [country211, dtd, fgvc_aircraft, flowers102, food101, imagenette, oxford_pets]


@pytest.mark.parametrize("make", FILE_SETS)
def test_sets_of_files_keep_their_bytes_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., None]
) -> None:
    make(tmp_path, monkeypatch)
    parts = open_set(make.__name__, tmp_path, download=False)
    assert list(parts) in (["train", "validation"], ["train", "validation", "test"])
    assert len({source.classes for source in parts.values()}) == 1
    splits = set()
    for source in parts.values():
        assert len(source.items) == len({item.key for item in source.items}) == 2
        for item in source.items:
            assert isinstance(item.content, Place)
            split, _, label = item.read().decode().partition(" ")
            assert source.classes[item.label] == label
            splits.add(split)
    assert len(splits) == len(parts)


def test_a_half_prepared_set_of_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food101(tmp_path, monkeypatch)
    (tmp_path / "food-101" / "images" / "waffles" / "test.jpg").unlink()
    with pytest.raises(UserError, match=r"cannot be read: FileNotFoundError.*test\.jpg"):
        open_set("food101", tmp_path, download=False)


def test_every_set_is_tested() -> None:
    tested = {make.__name__ for make in FILE_SETS} | {"cifar10", "stl10", "svhn"}
    assert set(NAMES) - tested == {"cifar100"}, "which is read as cifar10 is"
