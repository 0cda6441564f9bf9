"""Costs of operations, against numbers counted by hand. Device tensors are FakeTensors of device `cuda`."""

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.distributed import batch_norm_cuda  # noqa: F401 (defines our operations)
from trainer.networks import layer_norms  # noqa: F401 (defines our operations)
from trainer.profiling.dry_run import kernels

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


def on_device(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("sizes", "depth", "launches"),
    [
        ([10] * 110, 1, 1),
        ([10] * 111, 1, 2),
        ([10] * 36, 4, 1),
        ([10] * 37, 4, 2),
        ([320 * 65536], 1, 1),
        ([320 * 65536 + 1], 1, 2),
        ([0, 0], 1, 0),
    ],
)
def test_launches_of_a_list_of_tensors(sizes: list[int], depth: int, launches: int) -> None:
    assert kernels._list_launches(sizes, depth) == launches


def test_lists_of_different_strides_are_handled_one_by_one() -> None:
    straight, turned = on_device(4, 6), on_device(6, 4).t()
    assert kernels.launches(aten._foreach_add.List, [[straight] * 3, [straight] * 3]) == (1, False)
    assert kernels.launches(aten._foreach_add.List, [[straight] * 3, [turned] * 3]) == (3, True)


def test_an_elementwise_operation_reads_and_writes_each_tensor_once() -> None:
    a, b = on_device(8, 8), on_device(8, 8)
    assert kernels.moved_bytes(aten.add.Tensor, (a, b), {}, on_device(8, 8)) == 3 * 8 * 8 * 4
    assert kernels.moved_bytes(aten.add.Tensor, (a, a), {}, on_device(8, 8)) == 2 * 8 * 8 * 4


def test_an_expanded_tensor_is_read_once() -> None:
    row = on_device(8).expand(100, 8)
    assert kernels.moved_bytes(aten.add.Tensor, (row, row), {}, on_device(100, 8)) == (8 + 800) * 4


def test_an_operation_in_place_reads_and_writes_what_it_changes() -> None:
    a = on_device(100)
    assert kernels.moved_bytes(aten.mul_.Tensor, (a, 2.0), {}, a) == 2 * 100 * 4
    assert kernels.moved_bytes(aten.zero_.default, (a,), {}, a) == 100 * 4


def test_batch_norm_reads_both_gradients_of_a_residual_block() -> None:
    dy, dy2, x, y = (on_device(2, 4, 3, 3, dtype=torch.bfloat16) for _ in range(4))
    statistics, activation = on_device(1, 2, 4), 2 * 4 * 3 * 3 * 2
    sums = torch.ops.all4one.residual_gradient_sums
    for given, activations in (((dy, None, x, y), 4), ((dy, dy2, x, y), 5)):
        out = sums(*given, statistics)
        moved = kernels.moved_bytes(sums.default, (*given, statistics), {}, out)
        assert moved == activations * activation + 2 * 8 * 4  # statistics and sums
    assert kernels.launches(sums.default, (dy, dy2, x, y, statistics)) == (2, False)


def test_the_sum_of_two_normalized_batches_reads_neither_of_them_normalized() -> None:
    x, x2, y, dy, dy2 = (on_device(2, 4, 3, 3, dtype=torch.bfloat16) for _ in range(5))
    weight, bias, statistics = on_device(4), on_device(4), on_device(1, 2, 4)
    weight2, bias2, statistics2 = on_device(4), on_device(4), on_device(1, 2, 4)
    operations, activation = torch.ops.all4one, 2 * 4 * 3 * 3 * 2
    given = (x, weight, bias, statistics, x2, weight2, bias2, statistics2)
    moved = kernels.moved_bytes(operations.normalize_two.default, given, {}, operations.normalize_two(*given))
    assert moved == 3 * activation + 2 * (4 + 4 + 8) * 4
    given = (dy, dy2, x, x2, y, statistics, statistics2)
    out = operations.gradient_sums_of_two(*given)
    moved = kernels.moved_bytes(operations.gradient_sums_of_two.default, given, {}, out)
    assert moved == 6 * activation + (2 * 8 + 16) * 4
    assert kernels.launches(operations.gradient_sums_of_two.default, given) == (2, False)
    given = (out[0], x, weight, statistics, x2, weight2, statistics2, out[1], 18)
    out = operations.input_gradients_of_two(*given)
    moved = kernels.moved_bytes(operations.input_gradients_of_two.default, given, {}, out)
    assert moved == 5 * activation + (2 * (4 + 8) + 16) * 4


def test_a_matrix_product() -> None:
    a, b = on_device(4, 5, dtype=torch.bfloat16), on_device(5, 6, dtype=torch.bfloat16)
    assert kernels.flops(aten.mm.default, (a, b), {}, a @ b) == 2 * 4 * 5 * 6
    assert kernels.precision(aten.mm.default, (a, b)) == "bf16"
    assert kernels.kind(aten.mm.default, 240) == "matrix product"


def test_layer_norm_reads_and_writes_each_activation_once_and_torchs_gradient_reads_twice() -> None:
    columns, rows, eps = 8, 6, 1e-5
    x, dy = (on_device(rows, columns, dtype=torch.bfloat16) for _ in range(2))
    weight, bias = on_device(columns), on_device(columns)
    activation, statistics, parameters = rows * columns * 2, 2 * rows * 4, 2 * columns * 4
    forward, gradients = torch.ops.all4one.layer_norm, torch.ops.all4one.layer_norm_gradients

    out = forward(x, weight, bias, eps, torch.bfloat16)
    moved = kernels.moved_bytes(forward.default, (x, weight, bias, eps, torch.bfloat16), {}, out)
    assert moved == 2 * activation + statistics + parameters
    given = (dy, x, weight, out[1])
    moved = kernels.moved_bytes(gradients.default, given, {}, gradients(*given))
    assert moved == 3 * activation + statistics + columns * 4 + parameters
    assert kernels.launches(gradients.default, given) == (2, False)
    assert (
        kernels.kind(gradients.default, 0) == kernels.kind(aten.native_layer_norm.default, 0) == "layer norm"
    )

    whole = on_device(rows, columns)
    mean, invstd = on_device(rows, 1), on_device(rows, 1)
    theirs = (whole, whole.clone(), [columns], mean, invstd, weight, bias, [True, True, True])
    operation = aten.native_layer_norm_backward.default
    moved = kernels.moved_bytes(operation, theirs, {}, operation(*theirs))
    assert moved == 5 * rows * columns * 4 + statistics + 2 * parameters
    assert kernels.launches(operation, theirs) == (2, False)


def test_float32_convolutions_use_tf32_and_products_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x = [on_device(1, 3, 8, 8), on_device(4, 3, 3, 3)]
    assert kernels.precision(aten.convolution.default, x) == "tf32"
    assert kernels.precision(aten.mm.default, x) == "fp32"


def test_views_and_allocations_launch_nothing() -> None:
    for operation in (aten.view.default, aten.t.default, aten.empty.memory_format, aten.detach.default):
        assert kernels.launches_nothing(operation)
    for operation in (aten.add.Tensor, aten.add_.Tensor, aten.clone.default):
        assert not kernels.launches_nothing(operation)
