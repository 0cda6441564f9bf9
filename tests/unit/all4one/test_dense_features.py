"""Features before they are pooled, against forward hooks on the layers of the networks."""

import inspect

import pytest
import timm
import torch
from torch import Tensor, nn

from all4one import PretrainedBackbone, UserError
from trainer.config.schema import load_config
from trainer.networks.backbones import BackboneSettings, build_backbone

VIT, REGISTERS, NO_CLASS, EVA = (
    "test_vit",
    "vit_small_patch14_reg4_dinov2",
    "test_vit2",
    "vit_small_patch16_dinov3",
)
SIZES = {VIT: 48, REGISTERS: 42, NO_CLASS: 48, EVA: 48}
RESNET = {"name": "resnet18", "width": 8, "stem": "half"}


def backbone(size: int, **settings: object) -> PretrainedBackbone:
    torch.manual_seed(0)
    network = build_backbone(BackboneSettings.model_validate(settings), size).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():  # tokens and norms that a new network leaves alike
            if "token" in name or "norm" in name:
                value.add_(0.1 * torch.randn_like(value))
    data = load_config("digits_demo").data
    return PretrainedBackbone(network, data, name="online", checkpoint="step_1")


@pytest.fixture(scope="module")
def vits() -> dict[str, PretrainedBackbone]:
    return {name: backbone(size, name=name) for name, size in SIZES.items()}


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def outputs(network: nn.Module, layers: list[nn.Module], inputs: Tensor) -> list[Tensor]:
    """What layers return in a plain forward pass of a network."""
    found: dict[int, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda *call, at=at: found.update({at: call[-1]}))
        for at, layer in enumerate(layers)
    ]
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return [found[at] for at in range(len(layers))]


@pytest.mark.parametrize(
    ("size", "settings", "layer", "shape"),
    [
        (32, RESNET, "layer4", (2, 64, 2, 2)),
        (96, {"name": "resnet18", "stem": "imagenet"}, "layer4", (2, 512, 3, 3)),
        (64, {"name": "convnext_atto"}, "stages", (2, 320, 2, 2)),
    ],
)
def test_a_convolutional_network_gives_its_last_map(size, settings, layer, shape) -> None:
    model = backbone(size, **settings)
    (wanted,) = outputs(model.network, [getattr(model.network, layer)], images(size))
    with torch.no_grad():
        found = model.forward_features(images(size))
    assert found.shape == shape
    assert torch.equal(found, wanted)


def test_a_map_is_that_of_timm_where_it_has_the_network() -> None:
    model = backbone(64, name="resnet18", stem="imagenet")
    theirs = timm.create_model("resnet18", num_classes=0).eval()
    theirs.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_features(images(64)), theirs.forward_features(images(64)), rtol=1e-5, atol=1e-5
        )


def test_a_transformer_of_windows_gives_a_map_with_channels_first() -> None:
    name = "swin_tiny_patch4_window7_224"
    model = backbone(224, name=name)
    (wanted,) = outputs(model.network, [model.network.norm], images(224))
    with torch.no_grad():
        assert torch.equal(model.forward_features(images(224)), wanted.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "class_tokens", "registers", "side"),
    [(VIT, 1, 0, 3), (REGISTERS, 1, 4, 3), (NO_CLASS, 0, 1, 3), (EVA, 1, 4, 3)],
)
def test_a_vit_gives_its_tokens_as_dinov2_does(vits, name, class_tokens, registers, side) -> None:
    model, inputs = vits[name], images(SIZES[name])
    before, after = outputs(model.network, [model.network.blocks[-1], model.network.norm], inputs)
    assert before.shape[1] == class_tokens + registers + side**2
    with torch.no_grad():
        found = model.forward_features(inputs)
    prefix = class_tokens + registers
    wanted = {"x_prenorm": before, "x_norm_patchtokens": after[:, prefix:]}
    if class_tokens:
        wanted["x_norm_clstoken"] = after[:, 0]
    if registers:
        wanted["x_norm_regtokens"] = after[:, class_tokens:prefix]
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key
    if model.network.global_pool == "token":
        with torch.no_grad():
            assert torch.equal(model(inputs), found["x_norm_clstoken"])


@pytest.mark.parametrize("name", [VIT, REGISTERS, NO_CLASS, EVA])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("reshape", [False, True])
def test_layers_are_what_the_blocks_return(vits, name, norm, reshape) -> None:
    model, inputs = vits[name], images(SIZES[name])
    network = model.network
    blocks = list(network.blocks)
    given = outputs(network, blocks, inputs)
    prefix = given[0].shape[1] - 9
    has_class = prefix > (name == NO_CLASS)
    for n, numbers in ((1, [-1]), (3, [-3, -2, -1]), ([0, 2], [0, 2]), ((2, 0), [0, 2])):
        with torch.no_grad():
            found = model.get_intermediate_layers(inputs, n, reshape=reshape, norm=norm)
            wanted = [network.norm(given[at]) if norm else given[at] for at in numbers]
        assert isinstance(found, tuple)
        assert len(found) == len(numbers)
        for value, tokens in zip(found, wanted, strict=True):
            if reshape:
                assert value.shape == (2, tokens.shape[2], 3, 3)
                for row in range(3):
                    for column in range(3):
                        assert torch.equal(value[:, :, row, column], tokens[:, prefix + 3 * row + column])
            else:
                assert torch.equal(value, tokens[:, prefix:])
        if has_class:
            with torch.no_grad():
                pairs = model.get_intermediate_layers(
                    inputs, n, reshape=reshape, return_class_token=True, norm=norm
                )
            for (patches, token), value, tokens in zip(pairs, found, wanted, strict=True):
                assert torch.equal(patches, value)
                assert torch.equal(token, tokens[:, 0])


def test_a_vit_of_patches_alone(vits) -> None:
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(
        48, 16, embed_dim=32, depth=2, num_heads=2, num_classes=0, class_token=False, global_pool="avg"
    ).eval()
    model = PretrainedBackbone(network, vits[VIT].data, name="online", checkpoint="step_1")
    before, after = outputs(network, [network.blocks[-1], network.norm], images(48))
    with torch.no_grad():
        found = model.forward_features(images(48))
        (last,) = model.get_intermediate_layers(images(48))
    assert found.keys() == {"x_prenorm", "x_norm_patchtokens"}
    assert torch.equal(found["x_prenorm"], before)
    assert torch.equal(found["x_norm_patchtokens"], after)
    assert torch.equal(last, after)


def test_the_defaults_are_those_of_dinov2(vits) -> None:
    parameters = inspect.signature(PretrainedBackbone.get_intermediate_layers).parameters
    given = {name: p.default for name, p in list(parameters.items())[2:]}
    assert given == {"n": 1, "reshape": False, "return_class_token": False, "norm": True}
    with torch.no_grad():
        (last,) = vits[VIT].get_intermediate_layers(images(48))
        assert torch.equal(last, vits[VIT].forward_features(images(48))["x_norm_patchtokens"])


def test_gradients_flow_to_the_images(vits) -> None:
    for model, size in ((vits[VIT], 48), (backbone(32, **RESNET), 32)):
        inputs = images(size).requires_grad_()
        found = model.forward_features(inputs)
        (found if isinstance(found, Tensor) else found["x_norm_patchtokens"]).sum().backward()
        assert inputs.grad is not None
        assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("n", [0, -1, 99, [], [-1], [0, 99], [99, 0], [1, -1, 2]])
def test_blocks_that_are_not_there(vits, n) -> None:
    depth = len(vits[VIT].network.blocks)
    with pytest.raises(UserError, match=f"does not name blocks of a network that has {depth}"):
        vits[VIT].get_intermediate_layers(images(48), n)


def test_what_a_network_does_not_have_is_named(vits) -> None:
    with pytest.raises(UserError, match="ResNet is not a ViT"):
        backbone(32, **RESNET).get_intermediate_layers(images(32))
    with pytest.raises(UserError, match="the network has no class token"):
        vits[NO_CLASS].get_intermediate_layers(images(48), return_class_token=True)
    with pytest.raises(UserError, match="MlpMixer has no grid of patches"):
        backbone(224, name="mixer_s32_224").forward_features(images(224))
