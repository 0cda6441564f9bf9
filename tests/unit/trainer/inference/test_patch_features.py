import numpy as np
import pytest
import torch

from data_pipelines.errors import UserError
from trainer.inference.patch_features import (
    accept_size,
    patch_features,
    patches_and_attention,
    shows_attention,
)
from trainer.inference.patch_pictures import component_colors
from trainer.networks.backbones import BackboneSettings, build_backbone

VIT = "vit_tiny_patch16_224"


def network(name, size, **settings):
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(name=name, **settings), size).eval()


@pytest.fixture(scope="module")
def vit():
    return network(VIT, 48)


def images(size, number=2):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size", "side", "settings"),
    [
        ("resnet18", 32, 4, {"width": 8}),
        ("resnet18", 96, 3, {"width": 8, "stem": "imagenet"}),
        ("swin_tiny_patch4_window7_224", 224, 7, {}),
    ],
)
def test_the_mean_over_patches_is_what_the_network_returns(name, size, side, settings):
    backbone = network(name, size, **settings)
    patches = patch_features(backbone, images(size))
    assert patches.shape == (2, side, side, backbone.feature_dim)
    with torch.no_grad():
        torch.testing.assert_close(patches.mean((1, 2)), backbone(images(size)), rtol=1e-4, atol=1e-5)


def test_a_network_with_a_norm_after_the_mean():
    backbone = network("convnext_atto", 64)
    patches = patch_features(backbone, images(64))
    assert patches.shape == (2, 2, 2, backbone.feature_dim)
    with torch.no_grad():
        mean = backbone.head.norm(patches.mean((1, 2))[:, :, None, None]).flatten(1)
        torch.testing.assert_close(mean, backbone(images(64)), rtol=1e-4, atol=1e-5)


def test_patches_of_a_vit_are_its_tokens_row_by_row(vit):
    patches = patch_features(vit, images(48))
    assert patches.shape == (2, 3, 3, vit.feature_dim)
    with torch.no_grad():
        tokens = vit.forward_features(images(48))
    for row in range(3):
        for column in range(3):
            assert torch.equal(patches[:, row, column], tokens[:, 1 + 3 * row + column])


def test_attention_is_what_the_last_block_weighs_values_by(vit):
    """The plain path of timm gives its weights to a dropout, which shows them here."""
    attention = vit.blocks[-1].attn
    weights = []
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, args: weights.append(args[0]))
    fused, attention.fused_attn = attention.fused_attn, False
    try:
        with torch.no_grad():
            vit(images(48))
    finally:
        attention.fused_attn = fused
        handle.remove()
    features, found = patches_and_attention(vit, images(48))
    assert torch.equal(features, patch_features(vit, images(48)))
    assert found.shape == (2, 3, 3, 3)
    torch.testing.assert_close(found.flatten(2), weights[0][:, :, 0, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "size", "layer"), [(VIT, 48, "blocks"), ("convnext_atto", 64, "stages")])
def test_features_and_attention_are_of_one_forward_pass(name, size, layer):
    backbone, runs = network(name, size), []
    getattr(backbone, layer)[-1].register_forward_hook(lambda *call: runs.append(1))
    patches_and_attention(backbone, images(size))
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("name", "size", "shows"),
    [
        (VIT, 48, True),
        ("resnet18", 32, False),
        ("convnext_atto", 64, False),
        ("vit_base_patch32_clip_224", 32, True),
    ],
)
def test_only_a_plain_vit_with_a_class_token_shows_attention(name, size, shows):
    assert shows_attention(network(name, size)) is shows


def test_a_vit_accepts_another_size_and_refuses_one_that_its_patches_do_not_divide():
    backbone = network(VIT, 48)
    accept_size(backbone, 96)
    assert patch_features(backbone, images(96)).shape[1:3] == (6, 6)
    assert patches_and_attention(backbone, images(96))[1].shape[2:] == (6, 6)
    with pytest.raises(
        UserError, match=r"does not accept images of 100 x 100 pixels \(its patches have 16 x 16 pixels\)"
    ):
        accept_size(backbone, 100)


def test_a_model_without_a_grid_is_refused():
    with pytest.raises(UserError, match="MlpMixer has no grid of patches"):
        patch_features(network("mixer_s32_224", 224), images(224, 1))


def test_colors_are_the_principal_components_of_all_patches():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(3, 4, 5, 7)) * np.arange(1, 8)
    colors = component_colors(torch.from_numpy(features)).numpy().reshape(-1, 3)
    rows = features.reshape(-1, 7) - features.reshape(-1, 7).mean(0)
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    for color, direction in zip(colors.T, directions, strict=False):
        values = rows @ (direction * np.sign(direction[np.abs(direction).argmax()]))
        low, high = np.quantile(values, (0.01, 0.99))
        np.testing.assert_allclose(color, ((values - low) / (high - low)).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_components_that_are_not_there_are_black(width):
    features = torch.zeros(2, 3, 3, width)
    assert torch.equal(component_colors(features), torch.zeros(2, 3, 3, 3))
    features[..., 0] = torch.arange(18.0).reshape(2, 3, 3)
    colors = component_colors(features)
    assert (colors[..., 0].amin(), colors[..., 0].amax()) == (0, 1)
    assert torch.equal(colors[..., 1:], torch.zeros(2, 3, 3, 2))
