"""A trained backbone as a module that also prepares its images."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, overload

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
from trainer.inference.dense_features import feature_map, intermediate_layers, is_vit, vit_tokens
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

    def forward_features(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute features before they are pooled, of images `[B, 3, S, S]` that `preprocess` returned.

        Returns:
            Of a ViT a dictionary, as DINOv2 returns it: `x_norm_clstoken` `[B, D]`, `x_norm_regtokens` `[B, R, D]`,
                `x_norm_patchtokens` `[B, h * w, D]` row by row, and all tokens before the last norm, `x_prenorm`. A
                network without a class token or registers has no such key. Of any other network the last feature map
                `[B, C, h, w]`, as timm returns it.

        Raises:
            UserError: the network has no grid of features.
        """
        return vit_tokens(self.network, images) if is_vit(self.network) else feature_map(self.network, images)

    @overload
    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: Literal[False] = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        *,
        return_class_token: Literal[True],
        norm: bool = True,
    ) -> tuple[tuple[Tensor, Tensor], ...]: ...

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """Compute the patch tokens after several blocks of a ViT, as DINOv2 does.

        Args:
            images: `[B, 3, S, S]` that `preprocess` returned.
            n: how many of the last blocks, or the numbers of blocks from 0.
            reshape: whether each result is a map `[B, D, h, w]` instead of `[B, h * w, D]`.
            return_class_token: whether each result is a pair of patch tokens and class token `[B, D]`.
            norm: whether the last norm of the network is applied.

        Returns:
            A result for each block, in the order of the blocks.

        Raises:
            UserError: the network is no ViT, it has no such block, or no class token although that is asked for.
        """
        layers = intermediate_layers(self.network, images, n, reshape=reshape, norm=norm)
        if not return_class_token:
            return tuple(patches for patches, _ in layers)
        pairs = tuple((patches, token) for patches, token in layers if token is not None)
        if len(pairs) < len(layers):
            raise UserError(
                "the network has no class token",
                where="get_intermediate_layers",
                fix="leave return_class_token out",
            )
        return pairs

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
