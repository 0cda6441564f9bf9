"""Images, order, views and initial weights of the certified runs.

All of them are functions of names and numbers, so that the published code and this package read the same values. They
use only uniform numbers of Philox (Salmon et al., SC 2011) and single operations of float64, which are the same on
every machine.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CLASSES, PER_CLASS, VALIDATION_PER_CLASS = 10, 640, 50
BATCH, STEPS_PER_EPOCH = 64, 100
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE, BORDER = 32, 4
Floats = NDArray[np.float64]


class Pictures(NamedTuple):
    """Images of CIFAR-10 in the order of their classes and names."""

    pixels: NDArray[np.uint8]
    """`[N, 32, 32, 3]`."""
    labels: Tensor
    """`[N]` int64."""

    def digest(self) -> str:
        """Return a hash of the pixels. A decoder with other rounding gives another one."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()[:16]


def read_pictures(path: Path, per_class: int) -> Pictures:
    """Return the first images of each class of a tar with one folder for each class.

    Raises:
        FileNotFoundError: there is no such tar.
    """
    found: dict[str, dict[str, NDArray[np.uint8]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isfile() and int(name.stem) < per_class and (stream := tar.extractfile(member)):
                image = Image.open(io.BytesIO(stream.read())).convert("RGB")
                found.setdefault(name.parent.name, {})[name.stem] = np.asarray(image)
    rows = [images[name] for _, images in sorted(found.items()) for name in sorted(images)]
    labels = [label for label, (_, images) in enumerate(sorted(found.items())) for _ in images]
    return Pictures(np.stack(rows), torch.tensor(labels))


def uniform(shape: Iterable[int], *key: str | int) -> Floats:
    """Return numbers in [0, 1) that depend only on the shape and the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    seed = int.from_bytes(digest[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(tuple(shape))


def rows_of(step: int) -> NDArray[np.int64]:
    """Return the rows of the images of step number `step` (from 0), `[BATCH]`."""
    epoch, position = divmod(step, STEPS_PER_EPOCH)
    order = np.argsort(uniform((CLASSES * PER_CLASS,), "order", epoch), kind="stable")
    return order[position * BATCH : (position + 1) * BATCH]


def views_of(pictures: Pictures, step: int) -> list[Tensor]:
    """Return the two views of a step, float64 `[BATCH, 3, 32, 32]` each."""
    pixels = pictures.pixels[rows_of(step)] / 255.0
    return [normalized(_augmented(pixels, step, view)) for view in range(2)]


def normalized(images: Floats) -> Tensor:
    """Return images `[B, 32, 32, 3]` in [0, 1] as normalized float64 `[B, 3, 32, 32]`."""
    scaled = (images - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def _augmented(images: Floats, step: int, view: int) -> Floats:
    """Shift, flip, change brightness and contrast, and make some images gray. The second view is solarized at times."""
    border = ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0))
    wide = np.pad(images, border, mode="reflect")
    out = np.empty_like(images)
    for row, numbers in enumerate(uniform((len(images), 9), "view", step, view)):
        y, x = (int(n * (2 * BORDER + 1)) for n in numbers[:2])
        image = wide[row, y : y + SIZE, x : x + SIZE]
        if numbers[2] < 0.5:
            image = image[:, ::-1]
        if numbers[3] < 0.8:
            image = image * (0.6 + 0.8 * numbers[4])
            image = (image - 0.5) * (0.6 + 0.8 * numbers[5]) + 0.5
            image = image * (0.8 + 0.4 * uniform((3,), "tint", step, view, row))
        if numbers[6] < 0.2:
            red, green, blue = image[..., 0], image[..., 1], image[..., 2]
            image = np.stack([0.299 * red + 0.587 * green + 0.114 * blue] * 3, axis=-1)
        image = np.clip(image, 0.0, 1.0)
        if view == 1 and numbers[7] < 0.2:
            image = np.where(image >= 0.5, 1.0 - image, image)
        out[row] = image
    return out


def initial(name: str, shape: Iterable[int]) -> Tensor:
    """Return the initial value of a parameter, or of the rows of the queue, in float64.

    Matrices and filters are uniform with variance 2 / fan-in (He et al. 2015), and 1 / fan-in in the transformer.
    Weights of norms are near 1, and biases near 0.
    """
    shape = tuple(shape)
    numbers = 2 * uniform(shape, "weight", name) - 1
    if name == "queue.rows":
        return torch.nn.functional.normalize(torch.from_numpy(numbers), dim=1)
    if len(shape) > 1:
        gain = 3.0 if name.startswith(("transformer", "classifier")) else 6.0
        return torch.from_numpy(numbers * np.sqrt(gain / np.prod(shape[1:])))
    return torch.from_numpy(0.1 * numbers + (1.0 if name.endswith("weight") else 0.0))


def sample(tensor: Tensor) -> Tensor:
    """Return 4 entries of a tensor at equal distances, float64 `[4]`. Shorter tensors repeat entries."""
    flat = tensor.detach().cpu().flatten().double()
    return flat[torch.arange(4) * len(flat) // 4]
