import pytest
import timm
import torch
import torchvision
from torch import nn

from data_pipelines.errors import UserError
from trainer.networks.backbones import BackboneSettings, build_backbone, torchvision_resnets


def build(image_size, **settings):
    torch.manual_seed(0)
    return build_backbone(BackboneSettings(**settings), image_size)


@pytest.mark.parametrize(
    ("settings", "image_size", "feature_dim"),
    [
        ({}, 32, 512),
        ({"name": "resnet50", "stem": "imagenet"}, 64, 2048),
        ({"name": "resnet34", "width": 16}, 96, 128),
        ({"name": "resnet50", "width": 8}, 32, 256),
        ({"name": "resnet18", "width": 96}, 32, 768),
        ({"name": "test_vit"}, 48, 64),
        ({"name": "test_convnext"}, 64, 64),
    ],
)
@pytest.mark.slow
def test_features_have_the_stated_length_and_gradients_reach_everything(settings, image_size, feature_dim):
    backbone = build(image_size, **settings)
    features = backbone(torch.randn(3, 3, image_size, image_size))
    assert features.shape == (3, feature_dim) == (3, backbone.feature_dim)
    features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert backbone.training


@pytest.mark.parametrize(("image_size", "stem"), [(32, "cifar"), (64, "cifar"), (65, "imagenet")])
def test_auto_stem_follows_the_image_size(image_size, stem):
    backbone = build(image_size, name="resnet18", width=8)
    assert (backbone.conv1.kernel_size, backbone.conv1.stride) == (
        ((3, 3), (1, 1)) if stem == "cifar" else ((7, 7), (2, 2))
    )
    assert isinstance(backbone.maxpool, nn.Identity if stem == "cifar" else nn.MaxPool2d)


def test_the_padded_stem_has_a_border_of_two_pixels_and_the_same_names():
    padded, plain = (build(32, name="resnet18", width=8, stem=stem) for stem in ("padded", "cifar"))
    images = torch.randn(2, 3, 32, 32)
    assert padded.conv1(images).shape == (2, 8, 34, 34)
    assert plain.conv1(images).shape == (2, 8, 32, 32)
    assert isinstance(padded.maxpool, nn.Identity)
    padded.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_weights_load_into_torchvision_and_give_its_features(name):
    backbone = build(96, name=name).eval()
    reference = torchvision.models.get_model(name, weights=None)
    missing, unexpected = reference.load_state_dict(backbone.state_dict(), strict=False)
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])
    reference.fc = nn.Identity()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference.eval()(images), rtol=0, atol=0)


def test_weights_load_into_timm():
    backbone = build(48, name="test_vit")
    timm.create_model("test_vit", num_classes=0, img_size=48).load_state_dict(backbone.state_dict())


def test_another_width_scales_every_layer_and_keeps_the_names():
    wide = {name: tensor.shape for name, tensor in build(96, name="resnet50", width=128).state_dict().items()}
    plain = {name: tensor.shape for name, tensor in build(96, name="resnet50").state_dict().items()}
    assert list(wide) == list(plain)
    for name, shape in plain.items():
        assert wide[name] == torch.Size(n if n in (1, 3, 7) else 2 * n for n in shape), name


def test_initial_weights_are_torchvision_s_distribution_in_any_width():
    torch.manual_seed(0)
    for module in build(32, name="resnet18", width=32).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())


@pytest.mark.parametrize("settings", [{"width": 64}, {"width": 16}, {"width": 16, "name": "resnet50"}])
def test_zero_init_residual(settings):
    backbone = build(32, zero_init_residual=True, **settings)
    last = "bn3" if settings.get("name") == "resnet50" else "bn2"
    norms = {name: m.weight for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(bool((weight == 0).all()) == name.endswith(last) for name, weight in norms.items())


def test_building_draws_only_from_torch_s_generator_and_leaves_batch_statistics_alone():
    first, second = build(32, width=8), build(32, width=8)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert first.bn1.num_batches_tracked == 0
    assert bool((first.bn1.running_mean == 0).all())


def test_pretrained_torchvision_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"resnet18 could not be loaded.*[\s\S]*TORCH_HOME"):
        build(224, pretrained=True)


def test_pretrained_timm_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="test_vit could not be loaded"):
        build(160, name="test_vit", pretrained=True)


@pytest.mark.parametrize(
    ("settings", "image_size", "message"),
    [
        ({"name": "resnet81"}, 32, "resnet18"),
        ({"name": "vit_smal_patch16_224"}, 224, "vit_small_patch16_224"),
        ({"name": "test_vit.nothing"}, 224, "there is no model"),
        ({"name": "../resnet18"}, 224, "there is no model"),
        ({"name": "vit_tiny_patch16_224"}, 8, "does not accept images of 8 x 8"),
        ({"name": "test_convnext"}, 8, "does not accept images of 8 x 8"),
        ({"name": "test_vit", "stem": "cifar"}, 32, "stem=cifar applies only to torchvision"),
        (
            {"name": "test_vit", "zero_init_residual": True},
            32,
            "zero_init_residual=True applies only to torchvision",
        ),
        ({"name": "test_vit", "width": 32}, 32, "width applies only to torchvision"),
        ({"name": "resnext50_32x4d", "width": 32}, 32, "supports only width 64"),
        ({"name": "resnet18", "pretrained": True}, 32, "need the imagenet stem"),
        ({"name": "resnet18", "pretrained": True, "width": 32}, 224, "need the imagenet stem and width 64"),
    ],
)
def test_mistakes_are_named(settings, image_size, message):
    with pytest.raises(UserError, match=message):
        build(image_size, **settings)


def test_the_family_is_torchvision_s():
    assert {"resnet18", "resnet152", "resnext50_32x4d", "wide_resnet50_2"} <= set(torchvision_resnets())
    assert "vgg11" not in torchvision_resnets()
