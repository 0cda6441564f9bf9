"""The batch norm of CUDA devices, in Triton's interpreter: it equals batch norm of the whole batch, and that of CPUs.

The kernels, the messages between two real processes and the gradients are those of a GPU. Only the compiler is not.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_processes import interpret_triton
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from trainer.distributed import batch_norm
from trainer.distributed.batch_norm import forward_per_view, synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank
from trainer.distributed.fused_blocks import FusedBasicBlock, FusedBottleneck, fuse_activations


def passed(
    network: nn.Module, views: list[Tensor], on_gpu: bool, group_size: int = 0, ranks: int = 2
) -> dict[str, Any]:
    """Outputs, gradients, buffers and number of messages of a training pass over this rank's rows of each view."""
    sent: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(torch.distributed, name)

        def send(*args: Any, **kwargs: Any) -> Any:
            sent.append(name)
            return plain(*args, **kwargs)

        return send

    network = synchronize_batch_norm(copy.deepcopy(network), torch.device("cpu"), group_size)
    if on_gpu:
        fuse_activations(network)
    own = [view.chunk(ranks)[rank()].clone().requires_grad_() for view in views]
    with pytest.MonkeyPatch.context() as patch:
        if on_gpu:
            interpret_triton()
            patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        for name in ("all_gather_single", "all_reduce"):
            patch.setattr(torch.distributed, name, counted(name))
        out = forward_per_view(network, own)
        loss = torch.stack([((n + 1) * (o.double() ** 3)).sum() for n, o in enumerate(out)]).sum()
        loss.backward()
    found: dict[str, Any] = {f"out {n}": o.detach() for n, o in enumerate(out)}
    found |= {f"input {n}": x.grad for n, x in enumerate(own)}
    found |= {name: all_reduce_sum(p.grad) for name, p in network.named_parameters() if p.grad is not None}
    return found | dict(network.named_buffers()) | {"messages": sent}


def whole(network: nn.Module, views: list[Tensor]) -> dict[str, Tensor]:
    """The same without ranks, by torch's batch norm."""
    network = copy.deepcopy(network)
    inputs = [view.clone().requires_grad_() for view in views]
    out = [network(x) for x in inputs]
    torch.stack([((n + 1) * (o.double() ** 3)).sum() for n, o in enumerate(out)]).sum().backward()
    found = {f"out {n}": o.detach() for n, o in enumerate(out)}
    found |= {f"input {n}": x.grad for n, x in enumerate(inputs) if x.grad is not None}
    found |= {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | dict(network.named_buffers())


def check(results: list[dict[str, Any]], expected: dict[str, Tensor], tolerance: float) -> None:
    close = {"rtol": tolerance, "atol": tolerance}
    for name, value in expected.items():
        if name.startswith(("out ", "input ")):
            torch.testing.assert_close(torch.cat([r[name] for r in results]), value, **close)
        else:
            for result in results:
                torch.testing.assert_close(result[name], value, **close)


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


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.slow
def test_blocks_with_fused_activations_equal_those_of_torchvision(
    run_ranks, block: type[BasicBlock | Bottleneck]
) -> None:
    torch.manual_seed(0)
    network = ResNet(block, [2, 1, 1, 1], num_classes=3).double()
    batches = [torch.randn(4, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    results = run_ranks(passed, 2, network, batches, True)
    check(results, whole(network, batches), 1e-7)


def test_fused_blocks_keep_their_names_and_equal_the_plain_ones_in_evaluation() -> None:
    plain = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    x = torch.randn(2, 3, 32, 32)
    fused = batch_norm._convert(copy.deepcopy(plain), None)
    fuse_activations(fused)
    assert isinstance(fused.layer1[0], FusedBottleneck)
    assert list(fused.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(copy.deepcopy(fused)(x), plain(x))
    other = batch_norm._convert(ResNet(BasicBlock, [1, 1, 1, 1]), None)
    fuse_activations(other)
    assert isinstance(other.layer1[0], FusedBasicBlock)


@pytest.mark.slow
def test_equal_inputs_give_equal_bits(run_ranks) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    batches = [torch.randn(4, 3, 40, 40) for _ in range(2)]
    first, again = (run_ranks(passed, 2, network, batches, True)[0] for _ in range(2))
    for name, value in first.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, again[name]), name


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
        masked, sums = operations.residual_gradient_sums(out, x, out, statistics)
        assert (masked.shape, masked.dtype, masked.stride()) == (x.shape, x.dtype, x.stride())
        assert sums.shape == own.shape
        sums = operations.gradient_sums(out, x, weight, bias, statistics, True)
        assert sums.shape == own.shape
        made = operations.input_gradient(out, x, weight, bias, statistics, sums, 96, True)
        assert (made.shape, made.dtype, made.stride()) == (x.shape, x.dtype, x.stride())
