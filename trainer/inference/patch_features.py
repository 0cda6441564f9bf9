"""Features of the patches of images, and where the class token of a ViT looks."""

from typing import Any, cast

import torch
import torchvision
from torch import Tensor

from data_pipelines.errors import UserError, first_line
from data_pipelines.settings import DataSettings
from trainer.inference.dense_features import feature_map
from trainer.networks.backbones import Backbone


@torch.no_grad()
def patch_features(backbone: Backbone, images: Tensor) -> Tensor:
    """Return the features of patches `[B, h, w, F]` before they are pooled, those of `feature_map`.

    Args:
        backbone: the backbone in evaluation mode.
        images: `[B, 3, S, S]`, normalized.

    Raises:
        UserError: the model has no grid of patches.
    """
    return feature_map(backbone, images).permute(0, 2, 3, 1)


def shows_attention(backbone: Backbone) -> bool:
    """Return whether the last block of the model has a class token that attends to patches by plain attention."""
    if isinstance(backbone, torchvision.models.ResNet):
        return False
    from timm.layers import Attention
    from timm.models.vision_transformer import VisionTransformer

    return (
        isinstance(backbone, VisionTransformer)
        and bool(backbone.has_class_token)
        and type(cast(Any, backbone).blocks[-1].attn) is Attention
    )


@torch.no_grad()
def patches_and_attention(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return `patch_features`, and how much the class token of a ViT attends to each patch in the last block.

    The network runs once. The weights `[B, heads, h, w]` of a head are a softmax over all tokens. They sum up to less
    than 1 over patches, because class and register tokens have a share (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        backbone: the backbone in evaluation mode.
        images: `[B, 3, S, S]`, normalized.

    Returns:
        The features, and the weights or None if `shows_attention` is false.

    Raises:
        UserError: the model has no grid of patches.
    """
    if not shows_attention(backbone):
        return patch_features(backbone, images), None
    model = cast(Any, backbone)
    attention = model.blocks[-1].attn
    inputs: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        features = patch_features(backbone, images)
    finally:
        handle.remove()
    tokens = inputs[0]  # [B, N, F]
    batch, number, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(batch, number, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])  # [B, heads, N, d]
    scores = queries[:, :, :1] @ keys.transpose(-2, -1) * attention.scale  # [B, heads, 1, N]
    weights: Tensor = scores.softmax(-1)[:, :, 0, model.num_prefix_tokens :]
    return features, weights.unflatten(2, features.shape[1:3])


def accept_size(backbone: Backbone, size: int) -> None:
    """Make the network accept images of another size. The positions of a ViT are interpolated.

    Args:
        backbone: the network. It is changed.
        size: new side of the images in pixels.

    Raises:
        UserError: the network cannot use images of this size.
    """
    resize = getattr(backbone, "set_input_size", None)
    try:
        if resize is not None:
            resize(img_size=(size, size))
        with torch.no_grad():
            backbone(torch.zeros(1, 3, size, size, device=next(backbone.parameters()).device))
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise _refused_size(backbone, size, first_line(error)) from error
    sides = getattr(getattr(backbone, "patch_embed", None), "patch_size", (1, 1))
    if size % sides[0] or size % sides[1]:  # timm would leave out the right and lower border
        raise _refused_size(backbone, size, f"its patches have {sides[1]} x {sides[0]} pixels")


def at_size(data: DataSettings, size: int) -> DataSettings:
    """Return the settings for images of another size. The center crop keeps its share of the image."""
    resize = round(data.eval_resize * size / data.views[0].size)
    views = [data.views[0].model_copy(update={"size": size}), *data.views[1:]]
    return data.model_copy(update={"views": views, "eval_resize": resize})


def _refused_size(backbone: Backbone, size: int, reason: str) -> UserError:
    return UserError(
        f"{type(backbone).__name__} does not accept images of {size} x {size} pixels ({reason})",
        where="--size",
        fix="choose a multiple of the size of its patches, or leave it out",
    )
