"""Each set is made small in the layout that torchvision's own class reads; nothing is fetched from afar."""

import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision import datasets
from torchvision_folders import content, md5, put

from data_pipelines.build.builder import build
from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage, decode_rgb
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import Place, Source
from data_pipelines.sources.torchvision_sets import Pixels, open_set

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CIFAR-10 of four training and two test images."""
    root = tmp_path / "prepared"
    folder = root / "cifar-10-batches-py"

    def dump(name: str, content: dict[str, object]) -> list[str]:
        return [name, md5(put(folder / name, pickle.dumps(content)))]

    flat = PIXELS.reshape(10, -1)
    train = [
        dump("data_batch_1", {"data": flat[:2], "labels": [0, 1]}),
        dump("data_batch_2", {"data": flat[2:4], "labels": [2, 0]}),
    ]
    test = [dump("test_batch", {"data": flat[4:6], "labels": [2, 1]})]
    meta = dump("batches.meta", {"label_names": ["airplane", "automobile", "bird"]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return root


@pytest.fixture
def mirror(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A web server of this machine that torchvision takes for CIFAR-10's; the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(cifar10 / "cifar-10-batches-py", "cifar-10-batches-py")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(folder / "cifar-10-python.tar.gz"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


def check_cifar10(parts: dict[str, Source]) -> None:
    for name, start, wanted in (
        ("train", 0, ["airplane", "automobile", "bird", "airplane"]),
        ("validation", 4, ["bird", "automobile"]),
    ):
        found = content(parts[name])
        assert [label for label, _ in found] == wanted
        for number, (_, png) in enumerate(found, start):
            np.testing.assert_array_equal(decode_rgb(png), PIXELS[number].transpose(1, 2, 0))


def test_arrays_are_stored_without_loss(cifar10: Path, tmp_path: Path) -> None:
    parts = open_set("cifar10", cifar10, download=False)
    check_cifar10(parts)
    build(parts["train"], tmp_path / "out", workers=2)
    shards = ShardSet.open(tmp_path / "out")
    stored = {decode_rgb(shards.read(number)).tobytes() for number in range(len(shards))}
    assert stored == {pixels.transpose(1, 2, 0).tobytes() for pixels in PIXELS[:4]}


def test_a_set_is_fetched_once(mirror: Path, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    check_cifar10(open_set("cifar10", root, download=True))
    (mirror / "cifar-10-python.tar.gz").unlink()
    check_cifar10(open_set("cifar10", root, download=True))
    check_cifar10(open_set("cifar10", root, download=False))
    assert [path.name for path in root.iterdir()] == ["torchvision-cifar10"]


def test_a_prepared_folder_is_not_fetched_again(cifar10: Path, mirror: Path) -> None:
    (mirror / "cifar-10-python.tar.gz").unlink()
    check_cifar10(open_set("cifar10", cifar10, download=True))


def test_a_failed_download_leaves_nothing(mirror: Path, tmp_path: Path) -> None:
    archive = mirror / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-50])
    for message in ("RuntimeError: File not found or corrupted", "HTTP Error 404"):
        with pytest.raises(
            UserError, match=rf"cannot be downloaded: \w+: .*{message[-20:]}[\s\S]*--root FOLDER"
        ):
            open_set("cifar10", tmp_path / "root", download=True)
        assert not list((tmp_path / "root").iterdir())
        archive.unlink(missing_ok=True)


def test_a_set_that_is_not_there_or_broken_is_told(cifar10: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot be read: RuntimeError: Dataset not found[\s\S]*--root FOLDER"
    ):
        open_set("cifar10", tmp_path / "none", download=False)
    assert not (tmp_path / "none").exists()
    put(cifar10 / "cifar-10-batches-py" / "test_batch", b"x")
    with pytest.raises(UserError, match="corrupted"):
        open_set("cifar10", cifar10, download=False)


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar10, cifar100[\s\S]*did you mean torchvision:imagenette\?"):
        open_set("imagenete", tmp_path, download=False)
    with pytest.raises(UserError, match="choose one of these"):
        open_set("zzz", tmp_path, download=False)


def stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    pixels = np.random.default_rng(1).integers(0, 256, (6, 3, 96, 96), dtype=np.uint8)  # columns before rows
    files = {
        "train_X.bin": pixels[:2],
        "train_y.bin": np.array([1, 2], np.uint8),
        "unlabeled_X.bin": pixels[2:5],
        "test_X.bin": pixels[5:],
        "test_y.bin": np.array([2], np.uint8),
    }
    sums = {name: [name, md5(put(folder / name, array.tobytes()))] for name, array in files.items()}
    put(folder / "class_names.txt", "airplane\nbird\n")
    monkeypatch.setattr(
        datasets.STL10, "train_list", [sums[n] for n in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")]
    )
    monkeypatch.setattr(datasets.STL10, "test_list", [sums["test_X.bin"], sums["test_y.bin"]])


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split_list = {}
    for split, count in (("train", 4), ("test", 2)):
        path = root / f"{split}_32x32.mat"
        root.mkdir(exist_ok=True)
        labels = np.arange(10, 10 - count, -1)[:, None]  # 10 stands for the digit 0
        scipy.io.savemat(path, {"X": PIXELS[:count].transpose(2, 3, 1, 0), "y": labels})
        split_list[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)


@pytest.mark.parametrize(("name", "make"), [("stl10", stl10), ("svhn", svhn)])
def test_arrays_are_what_torchvision_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[..., None]
) -> None:
    make(tmp_path, monkeypatch)
    parts = open_set(name, tmp_path, download=False)
    kind = {"stl10": datasets.STL10, "svhn": datasets.SVHN}[name]
    splits = {"train": "train", "validation": "test"} | (
        {"unlabeled": "unlabeled"} if name == "stl10" else {}
    )
    assert list(parts) == list(splits)
    for part, split in splits.items():
        listed = kind(tmp_path, split=split)
        assert len(parts[part].items) == len(listed)
        for item, (image, label) in zip(parts[part].items, listed, strict=True):
            np.testing.assert_array_equal(decode_rgb(item.read()), np.asarray(image))
            assert item.label == label
    classes = ("airplane", "bird") if name == "stl10" else tuple("0123456789")
    assert parts["train"].classes == parts["validation"].classes == classes


def test_pixels_have_other_names_for_other_pixels() -> None:
    names = {repr(Pixels(pixels.tobytes(), (3, 32, 32), (1, 2, 0))) for pixels in PIXELS}
    assert len(names) == len(PIXELS)


def test_pixels_whose_file_has_become_shorter_are_told(tmp_path: Path) -> None:
    place = Place(put(tmp_path / "pixels.bin", PIXELS[0].tobytes()[:-1]), 0, 3072)
    with pytest.raises(UnusableImage, match="truncated"):
        Pixels(place, (3, 32, 32), (1, 2, 0)).read()
