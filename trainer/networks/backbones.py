"""Backbones by name: torchvision's ResNets and every timm model, without their classifiers."""

import difflib
from typing import Literal, cast

import torch
import torchvision
from pydantic import Field, model_validator
from torch import Tensor, nn

from data_pipelines.errors import UserError, first_line
from data_pipelines.settings import Settings
from data_pipelines.urls import Place, Url

CIFAR_STEM_UP_TO = 64
"""Largest image side, in pixels, for which the `auto` stem is `cifar`."""


class BackboneSettings(Settings):
    """The network that turns images into features."""

    first_names = {"recompute": "activation_checkpointing"}

    name: str = "resnet18"
    """A torchvision ResNet (`resnet18` … `wide_resnet101_2`), or any timm model. torchvision has priority."""
    stem: Literal["auto", "cifar", "padded", "half", "imagenet"] = "auto"
    """First layers of a torchvision ResNet. `cifar`: a 3x3 convolution of stride 1 without pooling. `padded`: the same
    with a border of 2 pixels instead of 1, so that 32 pixels become 34, as in the published code of All4One and
    solo-learn. `half`: as `cifar`, with stride 2, at a quarter of the cost. `imagenet`: the original layers. `auto`:
    `cifar` for images of up to 64 pixels, otherwise `imagenet`."""
    width: int = Field(64, ge=1, le=1024)
    """Channels of the first stage, for resnet18 to resnet152. Each later stage doubles them."""
    pretrained: bool = False
    """Whether to start from the library's pretrained weights, which are downloaded."""
    init: Place | None = None
    """File of weights to start from: a state_dict of torchvision or timm, a checkpoint of solo-learn or lightly, or a
    file that `all4one export` wrote as safetensors, timm or torchvision. Or a model on the Hugging Face hub, as
    `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`. Only a new run reads it. No code in the file is run."""
    init_partial: bool = False
    """Whether to start from `init` even if some backbone weights are missing or have another shape. Those weights are
    initialized randomly."""
    zero_init_residual: bool = False
    """Whether each residual branch of a torchvision ResNet starts at zero (Goyal et al. 2017, section 5.1)."""
    activation_checkpointing: bool = False
    """Whether to recompute batch norms, ReLUs and sums in the backward pass instead of keeping their outputs. The
    activations of a ResNet then need about half the memory, and a step takes a few percent longer. Gradients are the
    same up to rounding."""

    def drawn(self) -> "BackboneSettings":
        """Return the same network with random weights, for when its initial weights are not needed."""
        return self.model_copy(update={"pretrained": False, "init": None, "init_partial": False})

    @model_validator(mode="after")
    def _one_start(self) -> "BackboneSettings":
        if self.pretrained and self.init is not None:
            raise ValueError("pretrained and init cannot be combined")
        if self.init_partial and self.init is None:
            raise ValueError("init_partial needs init, the file of weights")
        if isinstance(self.init, Url) and not self.init.startswith("hf://"):
            raise ValueError("init must be a file, or hf://ORG/NAME on the Hugging Face hub")
        return self


class Backbone(nn.Module):
    """The type of the result of `build_backbone`: images `[B, 3, S, S]` → features `[B, feature_dim]`.

    The object is the library's own network, not a wrapper. The names in its `state_dict` are those of the library, so
    the weights load into the same model outside this project.
    """

    feature_dim: int


def build_backbone(settings: BackboneSettings, image_size: int, *other_sizes: int) -> Backbone:
    """Build the network for square images of `image_size` pixels. Weights are drawn from torch's generator.

    Args:
        settings: the backbone settings.
        image_size: image size that decides the layers.
        other_sizes: further image sizes that the network must accept.

    Raises:
        UserError: the name is unknown, a setting does not fit that model, its weights are not available, or it
            rejects an image size.
    """
    if settings.name in torchvision_resnets():
        network = _torchvision_resnet(settings, image_size)
    else:
        network = _timm_model(settings, image_size)
    backbone = cast(Backbone, network)
    backbone.feature_dim, *_ = (_feature_dim(network, settings.name, s) for s in (image_size, *other_sizes))
    return backbone


def torchvision_resnets() -> list[str]:
    """Return the names of torchvision's ResNets, including ResNeXt and wide ResNets."""
    builder = torchvision.models.get_model_builder
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if builder(name).__module__ == torchvision.models.resnet.__name__]


def stem_of(settings: BackboneSettings, image_size: int) -> str:
    """Return the stem of a torchvision ResNet for images of `image_size` pixels: `cifar`, `padded`, `half` or
    `imagenet`."""
    if settings.stem == "auto":
        return "cifar" if image_size <= CIFAR_STEM_UP_TO else "imagenet"
    return settings.stem


def stem_geometry(stem: str) -> tuple[int, int]:
    """Return stride and padding, in pixels, of the 3x3 convolution of a stem other than `imagenet`."""
    return 2 if stem == "half" else 1, 2 if stem == "padded" else 1


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
            f"{settings.name} supports only width 64",
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
        stride, padding = stem_geometry(stem)
        network.conv1 = nn.Conv2d(
            3, settings.width, kernel_size=3, stride=stride, padding=padding, bias=False
        )
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def _set_width(network: torchvision.models.ResNet, width: int, zero_init_residual: bool) -> None:
    """Replace every layer by the library's own layer with `width` channels in the first stage."""
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
    import timm  # importing it takes a second, so only timm models do

    name, _, tag = settings.name.partition(".")
    if name not in timm.list_models() or (tag and settings.name not in timm.list_pretrained(f"{name}.*")):
        raise _unknown(settings.name, timm.list_models() + timm.list_pretrained())
    for field, unset in (("stem", ("auto", "imagenet")), ("zero_init_residual", (False,))):
        if (value := getattr(settings, field)) not in unset:
            raise UserError(
                f"{field}={value} applies only to torchvision's ResNets, but {settings.name} is a timm model",
                where=f"backbone.{field}",
                fix=f"leave backbone.{field} out, or choose a torchvision ResNet such as backbone.name=resnet18",
            )
    if settings.width != 64:
        raise UserError(
            f"width applies only to torchvision's ResNets, but {settings.name} is a timm model",
            where="backbone.width",
            fix="leave backbone.width out, and choose a timm model of the right size",
        )
    if settings.pretrained and not timm.is_model_pretrained(settings.name):
        raise UserError(
            f"timm has no pretrained weights for {settings.name}",
            where="backbone.pretrained",
            fix="set backbone.pretrained=false, or choose a model that `timm.list_pretrained()` lists",
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
    """Return the feature size. It runs one blank image, which also checks that the model accepts the image size."""
    network.eval()  # keeps the running statistics unchanged
    try:
        features: Tensor = network(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise _refused_size(name, image_size, str(error)) from error
    network.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(
            f"{name} does not pool its output to one feature vector per image",
            where="backbone.name",
            fix="choose a model that gives [B, F] with num_classes=0",
        )
    return features.shape[1]


def _refused_size(name: str, image_size: int, reason: str) -> UserError:
    first_line = reason.strip().split("\n")[0]
    return UserError(
        f"{name} does not accept images of {image_size} x {image_size} pixels ({first_line})",
        where="backbone.name",
        fix="set another size in data.views, or choose a model for small images such as resnet18",
    )


def _no_weights(name: str, error: Exception) -> UserError:
    return UserError(
        f"the pretrained weights of {name} could not be loaded: {first_line(error)}",
        where="backbone.pretrained",
        fix="check the network, or download them on a machine with network access and share its cache "
        "(TORCH_HOME, HF_HOME), or set backbone.pretrained=false",
    )


def _unknown(name: str, timm_names: list[str]) -> UserError:
    near = difflib.get_close_matches(name, sorted({*torchvision_resnets(), *timm_names}), n=3, cutoff=0.5)
    return UserError(
        f"there is no model {name!r}" + (f"; nearest names: {', '.join(near)}" if near else ""),
        where="backbone.name",
        fix="choose a torchvision ResNet or a timm model (python -c 'import timm; print(timm.list_models())')",
    )
