"""Batch norm whose batch statistics span the batches of several ranks."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from trainer.distributed import batch_norm_cpu, batch_norm_cuda, two_norms_cuda
from trainer.distributed.collectives import world_size
from trainer.distributed.fused_blocks import fuse_activations
from trainer.distributed.triton_kernels import can_compile


class CrossRankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks of `process_group` (None: all), on any device ([B, C] or [B, C, H, W]).

    `torch.nn.SyncBatchNorm` does not accept CPU tensors. This module equals batch norm over the whole batch up to
    rounding, forward and backward. Evaluation mode is that of ordinary batch norm.
    """

    process_group: dist.ProcessGroup | None = None
    views = 1
    """Number of views stacked in a batch. Each has its own batch statistics. `forward_per_view` sets it for all
    layers."""
    activated = False
    """Whether ReLU follows each result. `fuse_activations` sets it where it replaces the network's own ReLU."""
    passed: "list[CrossRankBatchNorm] | None" = None
    """Collects the layers that a batch passes, whose batches `forward_per_view` counts together. None: each counts its
    own, which costs a kernel."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected [B, C] or [B, C, H, W], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [B, C, …]. Returns the same shape."""
        if self.has_kernels(input):
            return batch_norm_cuda.normalize_across_ranks(
                input, *self._state(input), relu=self.activated, **self._options()
            )
        out = self._normalized(input)
        return out.relu() if self.activated else out

    def normalized_sum(
        self, input: Tensor, residual: Tensor, norm: "CrossRankBatchNorm | None" = None
    ) -> tuple[Tensor, Tensor]:
        """Return ReLU of the normalized input plus a residual, both [B, C, …], once for each of two layers.

        If every layer takes one of the two results, the kernels of CUDA devices add the gradients of both.

        Args:
            input: the batch.
            residual: what is added, in the shape of `input`.
            norm: the batch norm of the residual. None: the residual is added as it is.
        """
        on_cuda = self.has_kernels(input)
        if norm is not None:
            if on_cuda and norm.has_kernels(residual):
                second = norm._options()
                return two_norms_cuda.normalized_sum_of_two_across_ranks(
                    input,
                    *self._state(input),
                    residual,
                    *norm._state(residual),
                    momentum2=second["momentum"],
                    eps2=second["eps"],
                    **self._options(),
                )
            residual = norm(residual)
        if on_cuda:
            return batch_norm_cuda.normalized_sum_across_ranks(
                input, *self._state(input), residual=residual, **self._options()
            )
        out = (self._normalized(input) + residual).relu()
        return out, out

    def without_scale_and_offset(self) -> None:
        """Replace weight and bias by constants, 1 and 0, which no optimizer and no checkpoint sees."""
        for name, constant in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
            value = constant(getattr(self, name).detach())
            delattr(self, name)
            self.register_buffer(name, value, persistent=False)

    def has_kernels(self, input: Tensor) -> bool:
        """Return whether the kernels of CUDA devices normalize a batch."""
        return self._across_ranks() and _on_cuda(input)

    def _across_ranks(self) -> bool:
        return self.training and world_size() > 1

    def _normalized(self, input: Tensor) -> Tensor:
        """Return the normalized input, without the kernels of CUDA devices."""
        if not self._across_ranks():
            return super().forward(input)
        return batch_norm_cpu.normalize_across_ranks(input, *self._state(input), **self._options())

    def _state(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weight, bias and running statistics, [C] each, and count the batch that passes the layer."""
        self._check_input_dim(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if self.passed is None:
            self.num_batches_tracked.add_(self.views)
        else:
            self.passed.append(self)
        return self.weight, self.bias, self.running_mean, self.running_var

    def _options(self) -> dict[str, Any]:
        assert self.momentum is not None
        return {
            "momentum": self.momentum,
            "eps": self.eps,
            "views": self.views,
            "group": self.process_group,
        }


def _on_cuda(x: Tensor) -> bool:
    """Return whether the kernels of CUDA devices take a tensor."""
    return x.is_cuda


def forward_per_view(network: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
    """Return the network's output for each view [B, …], each with its own batch statistics: V x [B, …].

    With `CrossRankBatchNorm` in training across ranks, consecutive views of the same shape pass through together. Each
    layer then sends one message for all of them instead of one per view. Otherwise views pass one after the other.
    """
    across = network.training and world_size() > 1
    norms = [m for m in network.modules() if isinstance(m, CrossRankBatchNorm)] if across else []
    if not norms:
        return [network(view) for view in views]
    groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
    return [out for group in groups for out in _together(network, norms, group)]


def _together(
    network: nn.Module, norms: Sequence[CrossRankBatchNorm], views: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Return the result of `forward_per_view` for views of one shape, with one pass."""
    passed: list[CrossRankBatchNorm] = []
    for norm in norms:
        norm.views, norm.passed = len(views), passed
    try:
        out: Tensor = network(torch.cat(list(views)) if len(views) > 1 else views[0])
    finally:
        for norm in norms:
            norm.views, norm.passed = 1, None
    times = Counter(passed)
    counts = [norm.get_buffer("num_batches_tracked") for norm in times]
    torch._foreach_add_(counts, [len(views) * number for number in times.values()])
    return out.chunk(len(views))


class CrossRankBatchNormAct(CrossRankBatchNorm):
    """The same for timm's batch norm with a built-in activation. `drop` and `act` follow the batch norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate [B, C, H, W]. Returns the same shape."""
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


def spans_all_ranks(norm: nn.Module) -> bool:
    """Return whether a batch norm computes its statistics over the rows of all ranks."""
    if world_size() == 1:
        return True
    if not isinstance(norm, CrossRankBatchNorm | nn.SyncBatchNorm):
        return False
    group: Any = norm.process_group
    return dist.get_world_size(group) == world_size()


def require_group(size: int, ranks: int) -> None:
    """Raise a UserError if `ranks` is not a multiple of the group size `size`. A size of 0 means one group of all
    ranks."""
    if size and ranks % size:
        divisors = [d for d in range(1, ranks + 1) if ranks % d == 0]
        near = [max(d for d in divisors if d < size), *[d for d in divisors if d > size][:1]]
        raise UserError(
            f"parallel.batch_norm_group ({size}) does not divide {ranks} process{'es' * (ranks > 1)}",
            fix=f"set parallel.batch_norm_group to {' or '.join(map(str, near))}",
        )


def synchronize_batch_norm(module: nn.Module, device: torch.device, group_size: int = 0) -> nn.Module:
    """Replace every batch norm by a `CrossRankBatchNorm`. Every rank must call, because this function creates process
    groups.

    On CUDA devices the messages of batch norm have a communicator of their own. Otherwise each would wait for the
    bucket of gradients that is under way. Without a compiler, which Triton needs, layers of torch and timm replace
    ours. They send one message for each view and wait for the device.

    Args:
        module: the network, which is changed in place.
        device: the device on which it will be.
        group_size: number of consecutive ranks that share batch statistics. 0: all ranks.

    Raises:
        UserError: the group size does not divide the number of ranks, or a kind of batch norm is not known to work
            across ranks.
    """
    ranks = world_size()
    require_group(group_size, ranks)
    size = group_size or ranks
    if size == 1:
        return module
    group: Any = None
    if size < ranks:
        group, _ = dist.new_subgroups(size)
    elif device.type == "cuda":
        group = dist.new_group()
    if device.type == "cuda" and not can_compile():
        from timm.layers import convert_sync_batchnorm

        LOGGER.warning(
            "batch norm across ranks is slower without a C compiler: install gcc, or name one with CC"
        )
        return convert_sync_batchnorm(module, group)
    module = _convert(module, group)
    if device.type == "cuda":
        fuse_activations(module)
    return module


def _convert(module: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        norm = _across_ranks(module)
        norm.process_group = group
        return norm
    for name, child in module.named_children():
        setattr(module, name, _convert(child, group))
    return module


def _across_ranks(module: nn.modules.batchnorm._BatchNorm) -> CrossRankBatchNorm:
    plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)
    activated = {name for name, _ in module.named_children()} == {"drop", "act"}
    if (
        not (plain or activated)
        or not (plain or module.affine)
        or not module.track_running_stats
        or module.momentum is None
    ):
        raise UserError(
            f"{module} cannot compute its batch statistics over all ranks",
            where="parallel.batch_norm",
            fix="set parallel.batch_norm=rank, or choose another backbone",
        )
    like = module.weight if module.affine else module.running_mean
    assert like is not None
    kind = CrossRankBatchNorm if plain else CrossRankBatchNormAct
    norm = kind(module.num_features, module.eps, module.momentum, device=like.device, dtype=like.dtype)
    if activated:
        norm.drop, norm.act = module.drop, module.act
    if not module.affine:
        norm.without_scale_and_offset()
    norm.load_state_dict(module.state_dict())
    norm.train(module.training)
    for name, parameter in module.named_parameters(recurse=False):
        getattr(norm, name).requires_grad_(parameter.requires_grad)
    return norm
