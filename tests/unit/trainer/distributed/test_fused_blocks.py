"""Fused blocks equal those of torchvision. The kernels run in Triton's interpreter between real processes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from norm_passes import check, passed, whole
from rank_processes import interpret_triton
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from trainer.distributed import batch_norm
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank
from trainer.distributed.fused_blocks import FusedBasicBlock, FusedBottleneck, FusedResNet, fuse_activations

aten = torch.ops.aten


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
    assert isinstance(fused, FusedResNet)
    assert isinstance(fused.layer1[0], FusedBottleneck)
    assert list(fused.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(copy.deepcopy(fused)(x), plain(x))
    other = batch_norm._convert(ResNet(BasicBlock, [1, 1, 1, 1]), None)
    fuse_activations(other)
    assert isinstance(other.layer1[0], FusedBasicBlock)


def test_a_block_may_have_a_shortcut_that_does_not_end_in_a_batch_norm(run_ranks) -> None:
    shortcut = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Identity())
    network = nn.Sequential(BasicBlock(4, 6, downsample=shortcut)).double()
    batches = [torch.randn(4, 4, 5, 5, dtype=torch.float64)]
    check(run_ranks(passed, 2, network, batches, True), whole(network, batches), 1e-9)


class Additions(TorchDispatchMode):
    """Collects the shapes of sums of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten.add.Tensor, aten.add_.Tensor) and args[0].dim() == 4:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def additions(network: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Shapes of the activations that autograd adds in a backward pass."""
    network = synchronize_batch_norm(copy.deepcopy(network), torch.device("cpu"))
    fuse_activations(network)
    with pytest.MonkeyPatch.context() as patch, Additions() as found:
        interpret_triton()
        patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        out = network(x)
        found.shapes.clear()
        out.square().sum().backward()
    return found.shapes


@pytest.mark.slow
def test_autograd_adds_only_the_gradients_of_the_stems_result(run_ranks) -> None:
    network = ResNet(BasicBlock, [1, 2, 1, 1], num_classes=3)
    assert run_ranks(additions, 2, network, torch.randn(2, 3, 32, 32))[0] == [(2, 64, 8, 8)]


USES: dict[str, Callable[[Any], Tensor]] = {
    "both": lambda pair: pair[0].square().sum() + 3 * pair[1].sum(),
    "first": lambda pair: pair[0].square().sum(),
    "second": lambda pair: pair[1].square().sum(),
}


def gradients(block: nn.Module, x: Tensor, use: str, as_pair: bool) -> dict[str, Tensor]:
    """Gradients of a block's input and weights if a loss uses both results or one of them."""
    block = synchronize_batch_norm(copy.deepcopy(nn.Sequential(block)), torch.device("cpu"))
    fuse_activations(block)
    own = x.chunk(2)[rank()].clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        interpret_triton()
        patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        out = block((own, own) if as_pair else own)
        USES[use](out if as_pair else (out, out)).backward()
    assert isinstance(out, tuple) == as_pair
    assert own.grad is not None
    found = {name: all_reduce_sum(p.grad) for name, p in block.named_parameters() if p.grad is not None}
    return found | {"out 0": (out[0] if as_pair else out).detach(), "input 0": own.grad}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("as_pair", [True, False])
def test_each_result_of_a_block_may_have_a_gradient(run_ranks, use: str, as_pair: bool) -> None:
    block = nn.Sequential(BasicBlock(4, 4)).double()
    x = torch.randn(4, 4, 5, 5, dtype=torch.float64)
    results = run_ranks(gradients, 2, block[0], x, use, as_pair)
    whole_x = x.clone().requires_grad_()
    out = block(whole_x)
    USES[use]((out, out)).backward()
    assert whole_x.grad is not None
    expected = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
    check(results, expected | {"out 0": out.detach(), "input 0": whole_x.grad}, 1e-9)


class NoGradient(torch.autograd.Function):
    """A layer that has no gradient for its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def without_gradient(block: nn.Module, x: Tensor) -> Tensor | None:
    block = synchronize_batch_norm(copy.deepcopy(nn.Sequential(block)), torch.device("cpu"))
    fuse_activations(block)
    x = x.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        interpret_triton()
        patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        NoGradient.apply(block(x)).backward()
    return x.grad


def test_a_result_without_any_gradient_brings_none_to_the_input(run_ranks) -> None:
    for gradient in run_ranks(without_gradient, 2, BasicBlock(4, 4), torch.randn(2, 4, 3, 3)):
        assert gradient is None or not gradient.any()
