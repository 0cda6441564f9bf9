"""The batch norm of CUDA devices, in Triton's interpreter: it equals batch norm of the whole batch, and that of CPUs.

The kernels, the messages between two real processes and the gradients are those of a GPU. Only the compiler is not.
"""

import copy

import pytest
import torch
from norm_passes import check, passed, whole
from rank_processes import interpret_triton
from torch import Tensor, nn

from trainer.distributed import batch_norm_cuda  # noqa: F401 (defines the operations)


@pytest.mark.parametrize("views", [1, 3])
def test_two_ranks_are_one_batch(run_ranks, views: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)
    ).double()
    batches = [torch.randn(8, 3, 5, 4, dtype=torch.float64) * (n + 2) + n for n in range(views)]
    results = run_ranks(passed, 2, network, batches, True)
    check(results, whole(network, batches), 1e-9)
    for result in results:
        assert sorted(result["messages"]) == ["all_gather_single"] * 2 + ["all_reduce"] * 2


def test_vectors_with_more_channels_than_a_tile(run_ranks) -> None:
    network = nn.Sequential(nn.Linear(3, 300), nn.BatchNorm1d(300)).double()
    batches = [torch.randn(10, 3, dtype=torch.float64)]
    check(run_ranks(passed, 2, network, batches, True), whole(network, batches), 1e-9)


def test_more_rows_than_a_chunk(run_ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.BatchNorm2d(3).double()
    batches = [
        torch.randn(2, 3, 70, 61, dtype=torch.float64) for _ in range(2)
    ]  # 4,270 rows of a view on a rank
    check(run_ranks(passed, 2, network, batches, True), whole(network, batches), 1e-9)


def test_a_mean_far_from_zero_costs_no_digits(run_ranks) -> None:
    batches = [torch.randn(64, 4) + 300]
    network = nn.BatchNorm1d(4)
    exact = whole(network.double(), [batches[0].double()])
    [first, _] = run_ranks(passed, 2, network.float(), batches, True)
    torch.testing.assert_close(first["running_var"].double(), exact["running_var"], rtol=1e-4, atol=0)


def test_bf16_with_weights_of_float32_rounds_only_its_results(run_ranks) -> None:
    network = nn.BatchNorm2d(4)
    batches = [torch.randn(8, 4, 3, 3).bfloat16() for _ in range(2)]
    exact = whole(copy.deepcopy(network).double(), [batch.double() for batch in batches])
    [result, _] = run_ranks(passed, 2, network, batches, True)
    for name, value in exact.items():
        of_rows = name.startswith(("out ", "input "))
        expected = value.chunk(2)[0] if of_rows else value
        assert result[name].dtype == (torch.bfloat16 if of_rows else network.state_dict()[name].dtype)
        # 8 bits of the output, whose third power is the loss
        close = {"rtol": 0.02, "atol": 0.01 * float(expected.abs().max())}
        torch.testing.assert_close(result[name].double(), expected.double(), **close)


def test_groups_have_statistics_of_their_own(run_ranks) -> None:
    network = nn.BatchNorm2d(3).double()
    batches = [torch.randn(8, 3, 4, 4, dtype=torch.float64)]
    results = run_ranks(passed, 4, network, batches, True, 2, 4)
    halves = batches[0].chunk(2)
    for half, members in zip(halves, (results[:2], results[2:]), strict=True):
        expected = whole(network, [half])
        torch.testing.assert_close(torch.cat([r["out 0"] for r in members]), expected["out 0"])
        torch.testing.assert_close(members[0]["running_var"], expected["running_var"])


@pytest.mark.slow
def test_equal_inputs_give_equal_bits(run_ranks) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    batches = [torch.randn(4, 3, 40, 40) for _ in range(2)]
    first, again = (run_ranks(passed, 2, network, batches, True)[0] for _ in range(2))
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, again[name]), name


def added_gradients(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What the backward kernel makes of two gradients, and of the sum that torch makes of them."""
    interpret_triton()
    dy, dy2, x, y = (
        torch.randn(4, 5, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(4)
    )
    statistics = torch.stack([torch.randn(2, 5), torch.rand(2, 5) + 0.5], 1)  # [V, 2, C]
    statistics = statistics.to(torch.float64 if dtype == torch.float64 else torch.float32)
    sums = torch.ops.all4one.residual_gradient_sums
    return list(zip(sums(dy, dy2, x, y, statistics), sums(dy + dy2, None, x, y, statistics), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_gradients_give_the_same_bits_as_their_sum(run_ranks, dtype: torch.dtype) -> None:
    """`tests/gpu/test_batch_norm_kernels.py` has bf16, which Triton's interpreter does not round to nearest."""
    [(masked, of_sum), (sums, sums_of_sum)] = run_ranks(added_gradients, 1, dtype)[0]
    assert masked.dtype == dtype
    assert torch.equal(masked, of_sum)
    assert torch.equal(sums, sums_of_sum)
    assert masked.abs().sum() > 0


def test_operations_have_shapes_for_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    operations = torch.ops.all4one
    with FakeTensorMode():
        x = torch.empty(6, 5, 4, 4, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        weight = torch.empty(5, device="cuda")
        bias = weight.clone()
        own = operations.view_statistics(x, 2)
        assert (own.shape, own.dtype) == ((2, 2, 5), torch.float32)
        statistics = operations.combine_statistics(own[None], weight, weight.clone(), 0.1, 1e-5, 48)
        assert statistics.shape == own.shape
        out = operations.normalize(x, weight, bias, statistics, x, True)
        assert (out.shape, out.dtype, out.stride()) == (x.shape, x.dtype, x.stride())
        masked, sums = operations.residual_gradient_sums(out, out, x, out, statistics)
        assert (masked.shape, masked.dtype, masked.stride()) == (x.shape, x.dtype, x.stride())
        assert sums.shape == own.shape
        sums = operations.gradient_sums(out, x, weight, bias, statistics, True)
        assert sums.shape == own.shape
        made = operations.normalize_two(x, weight, bias, statistics, x, weight, bias, statistics)
        assert (made.shape, made.dtype, made.stride()) == (x.shape, x.dtype, x.stride())
        masked, both = operations.gradient_sums_of_two(out, None, x, x, out, statistics, statistics)
        assert (masked.shape, masked.dtype, masked.stride()) == (x.shape, x.dtype, x.stride())
        assert both.shape == (2, *own.shape)
        for made in operations.input_gradients_of_two(
            out, x, weight, statistics, x, weight, statistics, both, 96
        ):
            assert (made.shape, made.dtype, made.stride()) == (x.shape, x.dtype, x.stride())
        made = operations.input_gradient(out, x, weight, bias, statistics, sums, 96, True)
        assert (made.shape, made.dtype, made.stride()) == (x.shape, x.dtype, x.stride())
