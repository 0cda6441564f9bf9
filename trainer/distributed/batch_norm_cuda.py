"""Batch norm across ranks on CUDA devices: one message forward and one backward for all views, and no host wait."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.batch_norm_library import operations


def normalize_across_ranks(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    views: int,
    group: dist.ProcessGroup | None,
    relu: bool,
) -> Tensor:
    """Normalize V stacked views [V * B, C, …], each by its batch statistics over the ranks of a group.

    The running statistics follow one view after the other. Every rank must have the same number of rows: the count is
    then known on the host, and nothing waits for the device. The same kernels apply what follows in most networks.

    Args:
        x: the input.
        weight: of each channel, [C].
        bias: of each channel, [C].
        running_mean: changed in place, [C].
        running_var: changed in place, [C].
        momentum: weight of a view in the running statistics.
        eps: added to variances.
        views: number of views, V.
        group: ranks that share the statistics. None: all.
        relu: whether negative results become 0.

    Returns the same shape and type.
    """
    out: Tensor = _Normalization.apply(
        x, weight, bias, running_mean, running_var, momentum, eps, views, group, relu
    )
    return out


def normalized_sum_across_ranks(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    residual: Tensor,
    momentum: float,
    eps: float,
    views: int,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Add a residual to normalized views, and replace negative results by 0.

    A result that goes to two layers has two gradients. If each layer takes a result of its own, the kernel of the
    backward pass adds the gradients. Otherwise autograd adds them, and reads and writes whole activations for it.

    Args:
        x: the input.
        weight: of each channel, [C].
        bias: of each channel, [C].
        running_mean: changed in place, [C].
        running_var: changed in place, [C].
        residual: added to the normalized x, in its shape.
        momentum: weight of a view in the running statistics.
        eps: added to variances.
        views: number of views, V.
        group: ranks that share the statistics. None: all.

    Returns the result twice, in the shape and type of x and the same memory.
    """
    out: tuple[Tensor, Tensor] = _NormalizedSum.apply(
        x, weight, bias, running_mean, running_var, residual, momentum, eps, views, group
    )
    return out


class _Normalization(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        views: int,
        group: dist.ProcessGroup | None,
        relu: bool,
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_format(x))
        statistics, count = _global_statistics(x, running_mean, running_var, momentum, eps, views, group)
        out: Tensor = operations.normalize(x, weight, bias, statistics, None, relu)
        ctx.save_for_backward(x, weight, bias, statistics)
        ctx.group, ctx.count, ctx.relu = group, count, relu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics = ctx.saved_tensors
        dy = grad.contiguous(memory_format=memory_format(x))
        sums = operations.gradient_sums(dy, x, weight, bias, statistics, ctx.relu)  # [V, 2, C]
        found = _gradients(dy, x, weight, bias, statistics, sums, ctx.count, ctx.group, ctx.relu)
        return *found, None, None, None, None, None, None, None


class _NormalizedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        residual: Tensor,
        momentum: float,
        eps: float,
        views: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=memory_format(x))
        residual = residual.to(x.dtype).contiguous(memory_format=memory_format(x))
        statistics, count = _global_statistics(x, running_mean, running_var, momentum, eps, views, group)
        out = operations.normalize(x, weight, bias, statistics, residual, True)
        # The next layer keeps its input too, so `out` takes no more memory.
        ctx.save_for_backward(x, weight, bias, statistics, out)
        ctx.group, ctx.count = group, count
        # A result that no layer uses has no gradient. It should not become a tensor of zeros. torch.compile knows
        # this attribute, but not the method `set_materialize_grads`.
        ctx.materialize_grads = False
        return out, out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, statistics, y = ctx.saved_tensors
        given = [grad.contiguous(memory_format=memory_format(x)) for grad in grads if grad is not None]
        if not given:
            return (None,) * 10
        dy, dy2 = given if len(given) == 2 else (given[0], None)
        masked, sums = operations.residual_gradient_sums(dy, dy2, x, y, statistics)
        found = _gradients(masked, x, weight, bias, statistics, sums, ctx.count, ctx.group, False)
        return *found, None, None, masked, None, None, None, None


def _global_statistics(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    views: int,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, int]:
    """Return what `combine_statistics` returns, [V, 2, C], and the rows of a view on all ranks."""
    rows = x.numel() // x.shape[1] // views
    own = operations.view_statistics(x, views)  # [V, 2, C]
    found = own.new_empty((dist.get_world_size(group), *own.shape))  # [W, V, 2, C]
    dist.all_gather_single(found, own[None], group=group)
    statistics = operations.combine_statistics(found, running_mean, running_var, momentum, eps, rows)
    return statistics, rows * len(found)


def _gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    sums: Tensor,
    count: int,
    group: dist.ProcessGroup | None,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias from this rank's sums [V, 2, C], which are changed in place."""
    own_bias, own_weight = sums.sum(0).to(weight.dtype)
    dist.all_reduce(sums, group=group)
    dx = operations.input_gradient(dy, x, weight, bias, statistics, sums, count, relu)
    return dx, own_weight, own_bias


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format in which the kernels take a batch."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format
