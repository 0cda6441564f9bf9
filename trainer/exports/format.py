"""The interface of an export format: it writes a backbone, describes what loads it, and loads it as users would."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.inference.loaded_backbones import Recipe
from trainer.networks.backbones import Backbone, stem_of, torchvision_resnets

Features = Callable[[Tensor], Tensor]
"""Images `[B, 3, S, S]` → features `[B, F]`."""


@dataclass(frozen=True)
class Subject:
    """A backbone to export, with its metadata."""

    backbone: Backbone
    """The backbone in evaluation mode on the CPU, float32."""
    recipe: Recipe
    which: str
    """`online`, `momentum`, or `exported` if it comes from a file."""
    run: Path | None = None
    """Folder of its run, if it has one."""
    step: int | None = None
    """Step of its checkpoint, if it has one."""
    license: str | None = None
    """License chosen by the user."""
    repository: str | None = None
    """`ORG/NAME` on the Hugging Face hub, if the user uploads the export there."""

    @property
    def name(self) -> str:
        """The library's name of the network."""
        return self.recipe.backbone.name

    @property
    def is_torchvision(self) -> bool:
        """Whether the network is from torchvision, not from timm."""
        return self.name in torchvision_resnets()

    @property
    def stem(self) -> str:
        """First layers of a torchvision ResNet: `cifar`, `padded`, `half` or `imagenet`."""
        return stem_of(self.recipe.backbone, self.recipe.image_size)

    @property
    def is_plain(self) -> bool:
        """Whether it is the library's own network, without a custom stem or width."""
        return not self.is_torchvision or (self.stem == "imagenet" and self.recipe.backbone.width == 64)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by the library's names, contiguous."""
        return {name: value.contiguous() for name, value in self.backbone.state_dict().items()}


class Format(NamedTuple):
    """A layout in which a backbone is exported."""

    suffixes: tuple[str, ...]
    """Suffixes of its files, the default one first. Empty: it is a folder."""
    write: Callable[[Subject, Path], None]
    """Writes the file or folder. Raises UserError if the backbone does not fit the format."""
    load: Callable[[Subject, Path], Features]
    """Loads the export strictly, with the tools of its users."""
    loads_into: Callable[[Subject], str]
    """Describes what loads it."""
    normalizes: bool = False
    """Whether it takes images in [0, 1] and normalizes them itself. Otherwise images must be normalized."""


class Normalized(nn.Module):
    """A backbone with its normalization: RGB images `[B, 3, S, S]` in [0, 1] → features `[B, F]`."""

    mean: Tensor
    std: Tensor

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.backbone = subject.backbone
        for name in ("mean", "std"):
            values = torch.tensor(getattr(subject.recipe.data, name))[:, None, None]  # [3, 1, 1]
            self.register_buffer(name, values)
        self.eval()

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images `[B, 3, S, S]` as in training."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Run the backbone on images. See the class."""
        features: Tensor = self.backbone(self.normalize(images))
        return features


def input_facts(subject: Subject) -> dict[str, object]:
    """Return what a self-normalizing file declares about its input and origin, as JSON values."""
    size, data = subject.recipe.image_size, subject.recipe.data
    return {
        "input": f"images [B, 3, {size}, {size}] float32, RGB in [0, 1]; normalized inside",
        "output": f"features [B, {subject.backbone.feature_dim}] float32",
        "resize_shorter_side": data.eval_resize,
        "center_crop": size,
        "mean": data.mean,
        "std": data.std,
        "network": subject.name,
        "backbone": subject.which,
        "checkpoint": Path(subject.recipe.source).name,
    }


def require_plain(subject: Subject, library: str) -> None:
    """Raise a UserError if no model of the library can load the weights unchanged."""
    if not subject.is_plain:
        raise UserError(
            f"{library} has no {subject.name} with the {subject.stem} stem and width {subject.recipe.backbone.width}",
            where="--format",
            fix="export as safetensors (the names are torchvision's), hf (its card says how to load it), torchscript "
            "or onnx",
        )
