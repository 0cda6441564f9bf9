import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import Item, Source


def _encode(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """A smooth random picture `[H, W, 3]`, other for each seed."""

    def make(seed: int = 0, height: int = 48, width: int = 60) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Pixels as an image file: `encode(pixels, "JPEG", quality=95)`."""
    return lambda pixels, form, **options: _encode(Image.fromarray(pixels), form, **options)


@pytest.fixture(scope="session")
def odd_images(picture: Callable[..., np.ndarray]) -> dict[str, bytes]:
    """Good images of unusual kinds, by name."""
    pixels = picture(1)
    image = Image.fromarray(pixels)
    alpha = Image.fromarray(np.dstack([pixels, 255 - pixels[:, :, 1]]))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    deep = pixels[:, :, ::-1].astype(np.uint16) * 257
    return {
        "gray jpeg": _encode(image.convert("L"), "JPEG"),
        "cmyk jpeg": _encode(image.convert("CMYK"), "JPEG"),
        "progressive jpeg": _encode(image, "JPEG", progressive=True),
        "turned jpeg": _encode(image, "JPEG", exif=exif),
        "rgb jpeg": _encode(image, "JPEG", keep_rgb=True),
        "png": _encode(image, "PNG"),
        "gray png": _encode(image.convert("L"), "PNG"),
        "1-bit png": _encode(image.convert("1"), "PNG"),
        "palette png": _encode(image.convert("P"), "PNG"),
        "rgba png": _encode(alpha, "PNG"),
        "gray-alpha png": _encode(image.convert("LA"), "PNG"),
        "16-bit png": cv2.imencode(".png", deep)[1].tobytes(),
        "16-bit gray png": cv2.imencode(".png", deep[:, :, 0])[1].tobytes(),
        "webp": _encode(image, "WEBP"),
        "lossless webp": _encode(image, "WEBP", lossless=True),
        "alpha webp": _encode(alpha, "WEBP"),
    }


@pytest.fixture(scope="session")
def source(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> Source:
    """Ninety images of three classes: JPEGs of several sizes, each tenth a PNG."""
    items = []
    for number in range(90):
        pixels = picture(number, 40 + number % 7, 44 + number % 11)
        data = encode(pixels, "PNG") if number % 10 == 9 else encode(pixels, "JPEG", quality=95)
        items.append(Item(f"image-{number:03d}", data, number // 30))
    return Source(items, ("ant", "bee", "cat"))


@pytest.fixture(scope="session")
def whole_set(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as four shards; not to be changed."""
    folder = tmp_path_factory.mktemp("set")
    build(source, folder, BuildOptions(shard_samples=25))
    return folder


@pytest.fixture
def shards(whole_set: Path) -> ShardSet:
    return ShardSet.open(whole_set)


SYNSETS = [(1, "n02", 0), (2, "n01", 0), (3, "n03", 0), (4, "n00", 2), (5, "n09", 2)]
"""Three classes and two synsets above them, numbered in another order than their WordNet ids."""
_FIELDS = [
    "ILSVRC2012_ID",
    "WNID",
    "words",
    "gloss",
    "num_children",
    "children",
    "wordnet_height",
    "num_train_images",
]


@pytest.fixture
def devkit(tmp_path: Path) -> Callable[..., Path]:
    """A development kit as ILSVRC2012 packs it: `devkit(truth="1\\n3\\n")` is its tar.gz; None leaves a file out."""

    def make(
        truth: str | None, meta: bytes | None = b"", synsets: Sequence[tuple[int, str, int]] = SYNSETS
    ) -> Path:
        data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
        data.mkdir(parents=True, exist_ok=True)
        if truth is not None:
            (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
        if meta:
            (data / "meta.mat").write_bytes(meta)
        elif meta is not None:
            rows = np.zeros((len(synsets), 1), [(name, object) for name in _FIELDS])
            for row, (number, wnid, children) in enumerate(synsets):
                below = np.arange(1, children + 1, dtype=np.uint16)
                text = (f"{wnid}, so", "a gloss")
                rows[row, 0] = (
                    float(number),
                    wnid,
                    *text,
                    float(children),
                    below,
                    float(children > 0),
                    1300.0,
                )
            scipy.io.savemat(data / "meta.mat", {"synsets": rows})
        (data.parent / "readme.txt").write_text("read me")
        path = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(data.parent, data.parent.name)
        return path

    return make
