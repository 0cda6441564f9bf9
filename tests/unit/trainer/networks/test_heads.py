import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from trainer.networks.heads import (
    AttentionPooling,
    CentroidTransformer,
    _dropout,
    positional_encoding,
    projector,
)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_a_projector_has_its_layers_and_ends_in_a_batch_norm(layers: int, affine: bool) -> None:
    head = projector(5, 7, 3, layers=layers, affine=affine)
    shapes = [tuple(m.weight.shape) for m in head if isinstance(m, nn.Linear)]
    assert shapes == [(7, 5), *[(7, 7)] * (layers - 2), (3, 7)]
    norms = [m for m in head if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == layers
    assert head[-1] is norms[-1]
    assert [m.affine for m in norms] == [True] * (layers - 1) + [affine]


def test_feature_axis_encoding_is_the_published_formula() -> None:
    k, size = 5, 16
    table = positional_encoding(k, size, "feature_axis")
    assert table.shape == (k, size)
    for c in range(k):
        frequency = 10000 ** (-2 * (c // 2) / 6)
        for d in range(size):
            expected = math.sin(d * frequency) if c % 2 == 0 else math.cos(d * frequency)
            assert math.isclose(table[c, d], expected, abs_tol=1e-12)


@pytest.mark.parametrize(("k", "size"), [(5, 16), (2, 8), (7, 9)])
def test_sequence_axis_encoding_counts_along_the_neighbors(k: int, size: int) -> None:
    table = positional_encoding(k, size, "sequence_axis")
    assert table.shape == (k, size)
    assert table[0, 0] == 0
    assert math.isclose(table[1, 0], math.sin(1))
    assert math.isclose(table[k - 1, 1], math.cos(k - 1))


@pytest.mark.parametrize("depth", [1, 3])
def test_reading_one_token_equals_the_whole_encoder(depth: int) -> None:
    torch.manual_seed(0)
    ours = CentroidTransformer(
        16, length=5, depth=depth, heads=8, dropout=0, encoding="sequence_axis"
    ).double()
    whole = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 8, 32, 0.0, batch_first=True), depth, enable_nested_tensor=False
    ).double()
    whole.load_state_dict(ours.state_dict())
    x = torch.randn(6, 5, 16, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    left, right = ours(x), whole(y + ours.encoding)[:, 0]
    torch.testing.assert_close(left, right)
    left.square().sum().backward()
    right.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, whole.get_parameter(name).grad)


@pytest.mark.parametrize(
    "make",
    [
        partial(CentroidTransformer, depth=1),
        partial(CentroidTransformer, depth=3),
        AttentionPooling,
    ],
)
def test_tokens_beyond_the_length_of_a_sequence_count_for_nothing(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = make(16, length=5, heads=8, dropout=0, encoding="sequence_axis").double()
    x = torch.randn(5, 5, 16, dtype=torch.float64, requires_grad=True)
    found = network(x, torch.arange(1, 6))
    alone = copy.deepcopy(network)
    for count, row in enumerate(found, start=1):
        alone.encoding = network.encoding[:count]
        torch.testing.assert_close(row, alone(x[count - 1 : count, :count])[0], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    for count, rows in enumerate(gradient, start=1):
        assert (rows[:count] != 0).any(1).all()
        assert (rows[count:] == 0).all()


def test_dropout_keeps_its_share_and_its_mean_and_is_a_function_of_the_seed() -> None:
    layer = nn.Dropout(0.1)
    x = torch.ones(100, 1001, requires_grad=True)
    torch.manual_seed(3)
    out = _dropout(x, layer)
    dropped = out == 0
    assert 0.095 < dropped.float().mean() < 0.105  # 16 standard deviations
    assert torch.equal(out[~dropped], torch.full_like(out[~dropped], 1 / 0.9))
    out.sum().backward()
    assert torch.equal(x.grad, out)
    torch.manual_seed(3)
    assert torch.equal(_dropout(x, layer), out)
    assert not torch.equal(_dropout(x, layer), out)
    assert torch.equal(_dropout(x, layer.eval()), x)


def test_a_training_transformer_drops_and_one_in_evaluation_does_not() -> None:
    torch.manual_seed(0)
    transformer = CentroidTransformer(16, length=5, depth=2, heads=8, dropout=0.5, encoding="sequence_axis")
    x = torch.randn(3, 5, 16)
    assert not torch.equal(transformer(x), transformer(x))
    transformer.eval()
    assert torch.equal(transformer(x), transformer(x))


def test_tokens_stay_in_bf16_under_autocast() -> None:
    torch.manual_seed(0)
    transformer = CentroidTransformer(16, length=5, depth=3, heads=8, dropout=0, encoding="sequence_axis")
    x = torch.randn(64, 5, 16)
    seen: list[torch.dtype] = []
    for layer in transformer.layers:
        layer.linear1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = transformer(x)
    assert seen == [torch.bfloat16] * 3
    torch.testing.assert_close(low.float(), transformer(x), rtol=0.05, atol=0.05)
