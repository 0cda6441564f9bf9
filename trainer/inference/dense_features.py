"""Features of a backbone before they are pooled, under the names of timm and DINOv2."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torchvision
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.networks.backbones import Backbone


def is_vit(backbone: Backbone) -> bool:
    """Return whether the network is a ViT of timm: blocks of equal width on class, register and patch tokens."""
    if isinstance(backbone, torchvision.models.ResNet):
        return False
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(backbone, VisionTransformer | Eva)


def feature_map(backbone: Backbone, images: Tensor) -> Tensor:
    """Return the last feature map `[B, F, h, w]` of a convolutional network, or the patch tokens of a transformer
    after its last norm as a map.

    Args:
        backbone: the network.
        images: `[B, 3, S, S]`, normalized.

    Raises:
        UserError: the model has no grid of patches.
    """
    if isinstance(backbone, torchvision.models.ResNet):
        return _resnet_map(backbone, images)
    model = cast(Any, backbone)
    features: Tensor = model.forward_features(images)
    if features.ndim == 4:
        channels_last = features.shape[-1] == model.num_features
        return features.permute(0, 3, 1, 2) if channels_last else features
    patch_embed = getattr(model, "patch_embed", None)
    if features.ndim == 3 and patch_embed is not None:
        height, width = patch_embed.dynamic_feat_size(images.shape[-2:])
        tokens = features[:, getattr(model, "num_prefix_tokens", 0) :]  # [B, h * w, F]
        if tokens.shape[1] == height * width:
            return tokens.transpose(1, 2).unflatten(2, (height, width))
    raise UserError(
        f"{type(model).__name__} has no grid of patches",
        where="backbone.name",
        fix="give a run with a ResNet, another convolutional network or a ViT",
    )


def _resnet_map(network: torchvision.models.ResNet, images: Tensor) -> Tensor:
    features: Tensor = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        features = layer(features)
    return features


def vit_tokens(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """Return the tokens of a ViT after its last block, under the names of DINOv2.

    Args:
        backbone: a network for which `is_vit` is true.
        images: `[B, 3, S, S]`, normalized.

    Returns:
        `x_prenorm` `[B, N, D]` is all tokens before the last norm. After it, `x_norm_clstoken` `[B, D]`,
            `x_norm_regtokens` `[B, R, D]` and `x_norm_patchtokens` `[B, h * w, D]`. A network without a class token or
            registers has no such key.
    """
    model = cast(Any, backbone)
    (before,) = _block_outputs(backbone, images, 1)
    after = model.norm(before)
    tokens = {"x_prenorm": before, "x_norm_patchtokens": after[:, model.num_prefix_tokens :]}
    if model.cls_token is not None:
        tokens["x_norm_clstoken"] = after[:, 0]
    if model.reg_token is not None:
        tokens["x_norm_regtokens"] = after[:, int(model.cls_token is not None) : model.num_prefix_tokens]
    return tokens


def intermediate_layers(
    backbone: Backbone, images: Tensor, n: int | Sequence[int], *, reshape: bool, norm: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Return the patch tokens and the class token of blocks of a ViT, in the order of the blocks.

    Args:
        backbone: a network.
        images: `[B, 3, S, S]`, normalized.
        n: how many of the last blocks, or the numbers of blocks from 0.
        reshape: whether patches are a map `[B, D, h, w]` instead of `[B, h * w, D]`.
        norm: whether the last norm of the network is applied to each block's output.

    Returns:
        Patch tokens, and class tokens `[B, D]` or None without a class token.

    Raises:
        UserError: the network is no ViT, or it has no such block.
    """
    if not is_vit(backbone):
        raise UserError(
            f"{type(backbone).__name__} is not a ViT, so it has no layers of tokens",
            where="get_intermediate_layers",
            fix="call forward_features, which gives the last feature map",
        )
    model = cast(Any, backbone)
    depth = len(model.blocks)
    wanted = range(depth - n, depth) if isinstance(n, int) else sorted(set(n))
    if not wanted or wanted[0] < 0 or wanted[-1] >= depth:
        raise UserError(
            f"n={n} does not name blocks of a network that has {depth}",
            where="get_intermediate_layers",
            fix=f"give a number from 1 to {depth}, or a list of blocks from 0 to {depth - 1}",
        )
    found = list[tuple[Tensor, Tensor | None]]()
    for output in _block_outputs(backbone, images, list(wanted)):
        tokens = model.norm(output) if norm else output
        patches = tokens[:, model.num_prefix_tokens :]  # [B, h * w, D]
        if reshape:
            grid = model.patch_embed.dynamic_feat_size(images.shape[-2:])
            patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()  # [B, D, h, w]
        found.append((patches, tokens[:, 0] if model.cls_token is not None else None))
    return found


def _block_outputs(backbone: Backbone, images: Tensor, blocks: int | list[int]) -> list[Tensor]:
    """Return all tokens `[B, N, D]` after some blocks of a ViT, before any norm."""
    model = cast(Any, backbone)
    has_prefix = bool(model.num_prefix_tokens)
    found = model.forward_intermediates(
        images, blocks, return_prefix_tokens=has_prefix, output_fmt="NLC", intermediates_only=True
    )
    return [torch.cat((prefix, patches), 1) for patches, prefix in found] if has_prefix else found
