"""The layer norms of CUDA devices, in Triton's interpreter, against torch's layer norm.

The kernels run on CPU tensors in a process of their own, because Triton decides about its interpreter when it is
imported. Only the compiler is not that of a GPU.
"""

import copy
import io
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rank_processes import interpret_triton
from small_methods import SMALL
from timm.layers import LayerNorm, LayerNorm2d
from torch import Tensor, nn

from data_pipelines.log import LOGGER
from trainer.networks import layer_norms
from trainer.networks.backbones import BackboneSettings, build_backbone
from trainer.networks.heads import CentroidTransformer
from trainer.networks.layer_norms import AutocastLayerNorm, AutocastLayerNorm2d, keep_autocast_dtype

EXACT = {"rtol": 1e-5, "atol": 1e-5}
ONE_STEP = {"rtol": 2**-7, "atol": 1e-5}
"""A step of bf16. Triton's interpreter cuts the digits off, and a GPU rounds."""


def operations(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Result, mean, 1 / sqrt(variance + eps) and gradients of x, weight and bias, from the kernels."""
    interpret_triton()
    out, statistics = torch.ops.all4one.layer_norm(x, weight, bias, eps, dy.dtype)
    dx, sums = torch.ops.all4one.layer_norm_gradients(dy, x, weight, statistics)
    return out, *statistics, dx, *sums


def trained(network: nn.Module, x: Tensor, autocast: bool) -> dict[str, Tensor]:
    """Output and gradients of a network with our layer norms."""
    interpret_triton()
    keep_autocast_dtype(network)
    x = x.detach().requires_grad_()  # keeps the memory format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_norms, "_on_cuda", lambda x: True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = network(x)
        out.float().square().sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **grads}


def norm(columns: int, kind: type[nn.LayerNorm] = nn.LayerNorm) -> nn.LayerNorm:
    torch.manual_seed(0)
    made = kind(columns)
    nn.init.normal_(made.weight, 1, 0.3)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3, 7, 64), "rows do not fill a tile"),
        ((1300, 387), "columns are odd, and the rows do not fill the last chunk"),
        ((2, 2048), "a row fills a tile"),
        ((2, 5000), "a row is longer than a tile"),
        ((64,), "there is one row"),
    ],
)
def test_the_kernels_equal_torchs_layer_norm(run_ranks, shape: tuple[int, ...], why: str) -> None:
    plain = norm(shape[-1])
    x, dy = torch.randn(shape) * 2 + 1, torch.randn(shape)
    [found] = run_ranks(operations, 1, x, plain.weight.detach(), plain.bias.detach(), dy, plain.eps)

    exact = copy.deepcopy(plain).double()
    inputs = x.double().requires_grad_()
    out = exact(inputs)
    expected = torch.autograd.grad(out, [inputs, exact.weight, exact.bias], dy.double())
    rows = inputs.detach().flatten(0, -2) if len(shape) > 1 else inputs.detach()[None]
    invstd = (rows.var(1, correction=0) + plain.eps).rsqrt()
    for value, reference in zip(found, [out, rows.mean(1), invstd, *expected], strict=True):
        close = {"rtol": 1e-5, "atol": 1e-5 * max(1.0, float(reference.detach().abs().max()))}
        torch.testing.assert_close(value, reference.detach().float(), **close)


def test_a_mean_far_from_zero_costs_no_digits(run_ranks) -> None:
    plain = norm(96)
    x, dy = torch.randn(4, 96) + 3000, torch.randn(4, 96)
    [found] = run_ranks(operations, 1, x, plain.weight.detach(), plain.bias.detach(), dy, plain.eps)
    # The mean itself is rounded to float32, a step of which is 2.4e-4 here.
    torch.testing.assert_close(found[0], copy.deepcopy(plain).double()(x.double()).float(), rtol=0, atol=1e-3)


def test_bf16_activations_meet_weights_that_are_not_rounded(run_ranks) -> None:
    plain = norm(387)
    x, dy = torch.randn(50, 387).bfloat16(), torch.randn(50, 387)
    [found] = run_ranks(operations, 1, x, plain.weight.detach(), plain.bias.detach(), dy, plain.eps)
    exact = plain(x.float())
    rounded = F.layer_norm(
        x.float(), (387,), plain.weight.bfloat16().float(), plain.bias.bfloat16().float(), plain.eps
    )
    torch.testing.assert_close(found[0], exact, **EXACT)
    assert (rounded - exact).abs().max() > 100 * (found[0] - exact).abs().max()


def test_types_of_activations_and_gradients_are_kept_and_weights_are_not_rounded(run_ranks) -> None:
    plain = norm(96)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(50, 96).to(dtype)
        [found] = run_ranks(trained, 1, copy.deepcopy(plain), x, True)
        assert (found["out"].dtype, found["x"].dtype) == (torch.bfloat16, dtype)
        exact = copy.deepcopy(plain)
        inputs = x.float().requires_grad_()
        out = exact(inputs)
        torch.testing.assert_close(found["out"].float(), out, **ONE_STEP)
        out.backward((2 * found["out"].float()).bfloat16().float())
        assert exact.weight.grad is not None
        assert exact.bias.grad is not None
        torch.testing.assert_close(found["weight"], exact.weight.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found["bias"], exact.bias.grad, rtol=1e-4, atol=1e-3)
        rounding = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else EXACT
        torch.testing.assert_close(found["x"].float(), inputs.grad, **rounding)


def test_without_autocast_nothing_changes(run_ranks) -> None:
    x = torch.randn(6, 64)
    plain = norm(64)
    [found] = run_ranks(trained, 1, copy.deepcopy(plain), x, False)
    expected = plain(x)
    assert torch.equal(found["out"], expected)
    expected.square().sum().backward()
    assert torch.equal(found["weight"], plain.weight.grad)


def test_channels_of_images_stay_in_channels_last_memory(run_ranks) -> None:
    plain = norm(40, LayerNorm2d)
    x = torch.randn(2, 40, 5, 3).contiguous(memory_format=torch.channels_last)
    [found] = run_ranks(trained, 1, copy.deepcopy(plain), x, True)
    torch.testing.assert_close(found["out"].float(), plain(x), **ONE_STEP)
    for name in ("out", "x"):
        assert found[name].is_contiguous(memory_format=torch.channels_last)
        assert found[name].shape == x.shape


@pytest.mark.slow
def test_equal_inputs_give_equal_bits(run_ranks) -> None:
    x = torch.randn(1300, 96)
    first, again = (run_ranks(trained, 1, norm(96), x, True)[0] for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_transformer_keeps_bf16_and_stays_close_to_float32(run_ranks) -> None:
    torch.manual_seed(0)
    network = CentroidTransformer(64, length=5, depth=2, heads=4, dropout=0, encoding="sequence_axis")
    x = torch.randn(8, 5, 64)
    [found] = run_ranks(trained, 1, copy.deepcopy(network), x, True)
    assert found["out"].dtype == torch.bfloat16
    torch.testing.assert_close(found["out"].float(), network(x), rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch16_224", {AutocastLayerNorm: 2 * 12 + 1}),
        ("convnext_tiny", {AutocastLayerNorm: 18, AutocastLayerNorm2d: 1 + 3 + 1}),
    ],
)
def test_every_layer_norm_of_a_backbone_is_replaced(name: str, expected: dict[type, int]) -> None:
    network = build_backbone(BackboneSettings(name=name), 224)
    names, x = list(network.state_dict()), torch.randn(1, 3, 224, 224)
    plain = copy.deepcopy(network).eval()(x)
    keep_autocast_dtype(network)
    assert Counter(type(m) for m in network.modules() if isinstance(m, nn.LayerNorm)) == expected
    assert list(network.state_dict()) == names
    assert torch.equal(network.eval()(x), plain)


def test_every_layer_norm_of_the_method_is_replaced_and_survives_copying() -> None:
    method = SMALL["all4one"].build(build_backbone(BackboneSettings(width=8), 16), 3)
    keep_autocast_dtype(method)
    saved = io.BytesIO()
    torch.save(method.transformer, saved)
    saved.seek(0)
    for network in (method.transformer, copy.deepcopy(method.transformer), _loaded(saved)):
        norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm)]
        assert norms
        assert {type(m) for m in norms} == {AutocastLayerNorm}


def _loaded(saved: io.BytesIO) -> Any:
    return torch.load(saved, weights_only=False)


def test_layer_norms_that_the_kernels_do_not_take_stay() -> None:
    class Other(nn.LayerNorm):
        """A network's own class may compute anything."""

    others = nn.Sequential(
        nn.LayerNorm(8, bias=False), nn.LayerNorm((4, 8)), nn.LayerNorm(8, elementwise_affine=False), Other(8)
    )
    network = nn.Sequential(LayerNorm(8), copy.deepcopy(others))
    keep_autocast_dtype(network)
    assert type(network[0]) is AutocastLayerNorm
    assert [type(m) for m in network[1]] == [type(m) for m in others]


def test_without_a_compiler_torchs_layer_norms_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", warned.append)
    monkeypatch.setattr(layer_norms, "can_compile", lambda: False)
    network = nn.Sequential(nn.LayerNorm(8))
    keep_autocast_dtype(network)
    assert type(network[0]) is nn.LayerNorm
    assert "install gcc" in warned[0]
    keep_autocast_dtype(nn.Sequential(nn.BatchNorm2d(8)))
    assert len(warned) == 1  # a network without layer norms lacks nothing


def test_operations_have_shapes_for_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(6, 5, 387, device="cuda")
        weight = torch.empty(387, device="cuda")
        out, statistics = torch.ops.all4one.layer_norm(x, weight, weight, 1e-5, torch.bfloat16)
        assert (out.shape, out.dtype, out.device) == (x.shape, torch.bfloat16, x.device)
        assert (statistics.shape, statistics.dtype) == ((2, 30), torch.float32)
        dx, sums = torch.ops.all4one.layer_norm_gradients(out, x, weight, statistics)
        assert (dx.shape, dx.dtype, dx.stride()) == (x.shape, x.dtype, x.stride())
        assert (sums.shape, sums.dtype) == ((2, 387), torch.float32)
