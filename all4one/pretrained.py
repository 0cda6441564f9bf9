"""A trained backbone as a module that also prepares its images."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data_pipelines.errors import UserError, first_line
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.loading.image_file_loader import PictureLoader
from data_pipelines.settings import DataSettings
from data_pipelines.sources.image_files import Picture, image_file, require_source
from trainer.networks.backbones import Backbone

BATCH = 256
"""Images that are prepared at a time."""
NAMED = 10
"""Unusable images that a message names."""
PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})
"""Modes of Pillow whose pixels a PNG keeps."""
_LOADING = Lock()  # an image that is given twice must not be read by two threads at once


class PretrainedBackbone(nn.Module):
    """A trained backbone: images `[B, 3, S, S]` → features `[B, F]`.

    Attributes:
        network (Backbone): torchvision's or timm's own module, without its classifier.
        data (DataSettings): how images are sized and normalized.
        name (str): `online`, `momentum` or `exported`.
        checkpoint (str): folder of the checkpoint that it comes from.
    """

    def __init__(self, network: Backbone, data: DataSettings, *, name: str, checkpoint: str) -> None:
        super().__init__()
        self.network, self.data, self.name, self.checkpoint = network, data, name, checkpoint
        self.train(network.training)

    @property
    def feature_dim(self) -> int:
        """Number of features F."""
        return self.network.feature_dim

    @property
    def image_size(self) -> int:
        """Side S of the square images, pixels."""
        return self.data.views[0].size

    def forward(self, images: Tensor) -> Tensor:
        """Compute features `[B, F]` of images `[B, 3, S, S]` that `preprocess` returned."""
        features: Tensor = self.network(images)
        return features

    def preprocess(self, images: Iterable[str | Path | Image.Image | NDArray[np.uint8]]) -> Tensor:
        """Size and normalize images exactly as an evaluation does.

        Images in memory are handled like PNG files that hold them: of an image with transparency the alpha channel is
        dropped.

        Args:
            images: paths of JPEG, PNG or WebP files, PIL images, and arrays `[H, W, 3]` uint8 with red first.

        Returns:
            `[B, 3, S, S]` float32 on the device of the backbone.

        Raises:
            UserError: `images` is a single image, or an image is missing, of another type or not usable. All
                unusable images are listed.
        """
        if isinstance(images, str | Path | Image.Image):
            raise UserError(
                f"is a single {type(images).__name__}", where="images", fix="give a list of images: [image]"
            )
        listed = [_picture(number, image) for number, image in enumerate(images)]
        device = next(self.network.parameters()).device
        loader = PictureLoader(listed, self.data, batch=max(1, min(len(listed), BATCH)), device=device)
        with loader:
            batches = [batch.images for batch in loader]
        if loader.bad:
            raise _unusable(loader.bad, len(listed))
        if not batches:
            return torch.empty(0, 3, self.image_size, self.image_size, device=device)
        return torch.cat(batches)


@dataclass(frozen=True)
class _InMemory:
    """An image that is encoded when it is read."""

    image: Image.Image

    @property
    def size(self) -> int:
        """A guess."""
        return self.image.width * self.image.height * len(self.image.getbands())

    def read(self) -> bytes:
        """The image as a PNG, which loses nothing."""
        image, file = self.image, io.BytesIO()
        try:
            with _LOADING:
                image.load()
            if image.mode not in PNG_MODES:
                image = image.convert("RGB")
            image.save(file, "PNG", compress_level=1)
        except (OSError, SyntaxError, ValueError) as error:  # of an image that Pillow had opened, not read
            raise UnusableImage(f"cannot be decoded: {first_line(error)}") from error
        return file.getvalue()


def _picture(number: int, image: object) -> Picture:
    name = f"images[{number}]"
    if isinstance(image, str | Path):
        path = Path(image)
        require_source(path)
        if not path.is_file():
            raise UserError("is a folder, not an image", where=path, fix="all4one.embed takes folders too")
        return image_file(path)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UserError(
                f"is an array {list(image.shape)} of {image.dtype}",
                where=name,
                fix="give a list of arrays [H, W, 3] of uint8, red first",
            )
        return Picture(name, _InMemory(Image.fromarray(np.ascontiguousarray(image))))
    if isinstance(image, Image.Image):
        if image.mode == "F":
            raise UserError(
                "has floating-point pixels (mode F)", where=name, fix='scale it to 0…255 and convert("L")'
            )
        return Picture(name, _InMemory(image))
    raise UserError(
        f"is a {type(image).__name__}",
        where=name,
        fix="give paths, PIL images or arrays [H, W, 3] of uint8",
    )


def _unusable(bad: dict[str, str], images: int) -> UserError:
    lines = [f"  - {name}: {reason}" for name, reason in list(bad.items())[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"  - and {len(bad) - NAMED} more")
    return UserError(
        "\n".join([f"{len(bad)} of {images} images cannot be used:", *lines]),
        where="images",
        fix="leave them out, or use all4one.embed, which does",
    )
