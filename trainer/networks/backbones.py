"""Backbones by name: torchvision's ResNets and every timm model, without their classifiers."""

import difflib
from pathlib import Path
from typing import Literal, cast

import torch
import torchvision
from pydantic import Field, model_validator
from torch import Tensor, nn

from data_pipelines.errors import UserError, first_line
from data_pipelines.settings import Settings

CIFAR_STEM_UP_TO = 64
"""Largest image side, pixels, at which the `auto` stem keeps the full resolution."""


class BackboneSettings(Settings):
    """Which network turns images into features."""

    first_names = {"recompute": "activation_checkpointing"}

    name: str = "resnet18"
    """A torchvision ResNet (`resnet18` … `wide_resnet101_2`) or any timm model; torchvision goes first."""
    stem: Literal["auto", "cifar", "half", "imagenet"] = "auto"
    """First layers of a torchvision ResNet: `cifar` is a 3x3 convolution of stride 1 without pooling, `half` the same
    with stride 2 (a quarter of the work), `imagenet` the library's own; `auto` takes `cifar` for images of up to 64
    pixels."""
    width: int = Field(64, ge=1, le=1024)
    """Channels of the first stage, for resnet18 to resnet152; later stages double it."""
    pretrained: bool = False
    """Start from the library's weights, which are downloaded."""
    init: Path | None = None
    """File of weights to start from: a state_dict of torchvision or timm, a checkpoint of solo-learn or lightly, or one
    that `all4one export` wrote as safetensors, timm or torchvision. Read by a new run only; no code in it is run."""
    init_partial: bool = False
    """Start from `init` even where some of the backbone's weights are not in it or have another shape: those are drawn
    anew."""
    zero_init_residual: bool = False
    """Start each residual branch of a torchvision ResNet at zero (Goyal et al. 2017, section 5.1)."""
    activation_checkpointing: bool = False
    """Make batch norms, ReLUs and sums again in the backward pass instead of keeping what they gave: the activations of
    a ResNet take about half the memory, at a few per cent of the time. Gradients are the same up to rounding."""

    def drawn(self) -> "BackboneSettings":
        """The same network with weights that are drawn: where those that it would start from are not asked for."""
        return self.model_copy(update={"pretrained": False, "init": None, "init_partial": False})

    @model_validator(mode="after")
    def _one_start(self) -> "BackboneSettings":
        if self.pretrained and self.init is not None:
            raise ValueError("takes either pretrained or init, not both")
        if self.init_partial and self.init is None:
            raise ValueError("init_partial needs init, the file of weights")
        return self


class Backbone(nn.Module):
    """The type of what `build_backbone` gives: images `[B, 3, S, S]` → features `[B, feature_dim]`.

    The object is the library's own network rather than a wrapper, so that the names in its `state_dict` are
    the library's and the weights load into the same model outside this project.
    """

    feature_dim: int


def build_backbone(settings: BackboneSettings, image_size: int, *other_sizes: int) -> Backbone:
    """Build the network for square images of `image_size` pixels, its weights drawn from torch's generator.

    Args:
        settings: what to build.
        image_size: of the images that decide its layers.
        other_sizes: of images that it must take too.

    Raises:
        UserError: the name is unknown, a setting does not fit that model, its weights cannot be had, or it
            refuses an image size.
    """
    if settings.name in torchvision_resnets():
        network = _torchvision_resnet(settings, image_size)
    else:
        network = _timm_model(settings, image_size)
    backbone = cast(Backbone, network)
    backbone.feature_dim, *_ = (_feature_dim(network, settings.name, s) for s in (image_size, *other_sizes))
    return backbone


def torchvision_resnets() -> list[str]:
    """Names of torchvision's ResNet family, ResNeXt and wide ones included."""
    builder = torchvision.models.get_model_builder
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if builder(name).__module__ == torchvision.models.resnet.__name__]


def stem_of(settings: BackboneSettings, image_size: int) -> str:
    """First layers that a torchvision ResNet gets for images of `image_size` pixels: `cifar`, `half` or `imagenet`."""
    if settings.stem == "auto":
        return "cifar" if image_size <= CIFAR_STEM_UP_TO else "imagenet"
    return settings.stem


def _torchvision_resnet(settings: BackboneSettings, image_size: int) -> nn.Module:
    stem = stem_of(settings, image_size)
    if settings.pretrained and (stem != "imagenet" or settings.width != 64):
        raise UserError(
            f"the pretrained weights of {settings.name} need the imagenet stem and width 64, "
            f"not the {stem} stem and width {settings.width}",
            where="backbone.pretrained",
            fix="set backbone.stem=imagenet backbone.width=64, or backbone.pretrained=false",
        )
    if settings.width != 64 and not settings.name.removeprefix("resnet").isdigit():
        raise UserError(
            f"{settings.name} comes in width 64 only",
            where="backbone.width",
            fix="set backbone.width=64, or a plain ResNet such as backbone.name=resnet50",
        )
    try:
        network = torchvision.models.get_model(
            settings.name,
            weights="DEFAULT" if settings.pretrained else None,
            zero_init_residual=settings.zero_init_residual,
        )
    except (OSError, RuntimeError) as error:
        raise _no_weights(settings.name, error) from error
    network.fc = nn.Identity()
    if settings.width != 64:
        _set_width(network, settings.width, settings.zero_init_residual)
    if stem != "imagenet":
        stride = 1 if stem == "cifar" else 2
        network.conv1 = nn.Conv2d(3, settings.width, kernel_size=3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def _set_width(network: torchvision.models.ResNet, width: int, zero_init_residual: bool) -> None:
    """Replace every layer by one of the library's own layers with `width` channels in the first stage."""
    network.inplanes = width
    network.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    for stage in range(4):
        old = getattr(network, f"layer{stage + 1}")
        new = network._make_layer(type(old[0]), width * 2**stage, len(old), stride=1 if stage == 0 else 2)
        setattr(network, f"layer{stage + 1}", new)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_init_residual and isinstance(module, torchvision.models.resnet.Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif zero_init_residual and isinstance(module, torchvision.models.resnet.BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def _timm_model(settings: BackboneSettings, image_size: int) -> nn.Module:
    import timm  # costs a second, which runs on torchvision's models need not spend

    name, _, tag = settings.name.partition(".")
    if name not in timm.list_models() or (tag and settings.name not in timm.list_pretrained(f"{name}.*")):
        raise _unknown(settings.name, timm.list_models() + timm.list_pretrained())
    for field, unset in (("stem", ("auto", "imagenet")), ("zero_init_residual", (False,))):
        if (value := getattr(settings, field)) not in unset:
            raise UserError(
                f"{field}={value} is for torchvision's ResNets, and {settings.name} is a timm model",
                where=f"backbone.{field}",
                fix=f"leave backbone.{field} out, or set backbone.name to one of theirs, such as resnet18",
            )
    if settings.width != 64:
        raise UserError(
            f"width is for torchvision's ResNets, and {settings.name} is a timm model",
            where="backbone.width",
            fix="leave backbone.width out and choose the size by the model's name",
        )
    if settings.pretrained and not timm.is_model_pretrained(settings.name):
        raise UserError(
            f"timm has no pretrained weights for {settings.name}",
            where="backbone.pretrained",
            fix="set backbone.pretrained=false, or a model that `timm.list_pretrained()` lists",
        )
    options = {"img_size": image_size} if timm.get_pretrained_cfg(settings.name).fixed_input_size else {}
    try:
        return timm.create_model(settings.name, pretrained=settings.pretrained, num_classes=0, **options)
    except OSError as error:
        raise _no_weights(settings.name, error) from error
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise _refused_size(settings.name, image_size, str(error)) from error


@torch.no_grad()
def _feature_dim(network: nn.Module, name: str, image_size: int) -> int:
    """Length of the features, found by running one blank image, which shows too that the size is accepted."""
    network.eval()  # batch statistics must not move
    try:
        features: Tensor = network(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise _refused_size(name, image_size, str(error)) from error
    network.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(
            f"{name} does not pool its output to one feature vector an image",
            where="backbone.name",
            fix="choose a model that gives [B, F] with num_classes=0",
        )
    return features.shape[1]


def _refused_size(name: str, image_size: int, reason: str) -> UserError:
    first_line = reason.strip().split("\n")[0]
    return UserError(
        f"{name} does not take images of {image_size} x {image_size} pixels ({first_line})",
        where="backbone.name",
        fix="set another size in data.views, or a model made for small images such as resnet18",
    )


def _no_weights(name: str, error: Exception) -> UserError:
    return UserError(
        f"the pretrained weights of {name} could not be had: {first_line(error)}",
        where="backbone.pretrained",
        fix="check the network, fetch them once on a machine that has one and share its cache "
        "(TORCH_HOME, HF_HOME), or set backbone.pretrained=false",
    )


def _unknown(name: str, timm_names: list[str]) -> UserError:
    near = difflib.get_close_matches(name, sorted({*torchvision_resnets(), *timm_names}), n=3, cutoff=0.5)
    return UserError(
        f"no model is called {name!r}" + (f"; the nearest: {', '.join(near)}" if near else ""),
        where="backbone.name",
        fix="name a torchvision ResNet or a timm model (python -c 'import timm; print(timm.list_models())')",
    )
