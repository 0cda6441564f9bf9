"""The sum of two batches with a batch norm each, across ranks on CUDA devices: one message forward and one backward."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.batch_norm_cuda import memory_format
from trainer.distributed.batch_norm_library import operations


def normalized_sum_of_two_across_ranks(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    x2: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    running_mean2: Tensor,
    running_var2: Tensor,
    *,
    momentum: float,
    eps: float,
    momentum2: float,
    eps2: float,
    views: int,
    group: dist.ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Add two normalized batches of V stacked views [V * B, C, …], and replace negative results by 0.

    `normalized_sum_across_ranks` would read and write the second normalized batch, and read the gradient before ReLU
    once more for it. The arguments are those of `normalized_sum_across_ranks`, for each of two batches of one shape.

    Returns the result twice, in the shape and type of x and the same memory.
    """
    out: tuple[Tensor, Tensor] = _NormalizedSumOfTwo.apply(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        x2,
        weight2,
        bias2,
        running_mean2,
        running_var2,
        momentum,
        eps,
        momentum2,
        eps2,
        views,
        group,
    )
    return out


class _NormalizedSumOfTwo(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        x2: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        running_mean2: Tensor,
        running_var2: Tensor,
        momentum: float,
        eps: float,
        momentum2: float,
        eps2: float,
        views: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous(memory_format=memory_format(x))
        x2 = x2.contiguous(memory_format=memory_format(x))
        rows = x.numel() // x.shape[1] // views
        own = torch.stack([operations.view_statistics(batch, views) for batch in (x, x2)])  # [2, V, 2, C]
        found = own.new_empty((dist.get_world_size(group), *own.shape))  # [W, 2, V, 2, C]
        dist.all_gather_single(found, own[None], group=group)
        first, second = found.unbind(1)  # [W, V, 2, C] each
        combine = operations.combine_statistics
        statistics = combine(first, running_mean, running_var, momentum, eps, rows)  # [V, 2, C]
        statistics2 = combine(second, running_mean2, running_var2, momentum2, eps2, rows)
        out = operations.normalize_two(x, weight, bias, statistics, x2, weight2, bias2, statistics2)
        ctx.save_for_backward(x, weight, statistics, x2, weight2, statistics2, out)
        ctx.group, ctx.count = group, rows * len(found)
        ctx.materialize_grads = False  # `_NormalizedSum` says why
        return out, out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, statistics, x2, weight2, statistics2, y = ctx.saved_tensors
        given = [grad.contiguous(memory_format=memory_format(x)) for grad in grads if grad is not None]
        if not given:
            return (None,) * 16
        dy, dy2 = given if len(given) == 2 else (given[0], None)
        masked, sums = operations.gradient_sums_of_two(dy, dy2, x, x2, y, statistics, statistics2)
        (own_bias, own_weight), (own_bias2, own_weight2) = sums.sum(1).to(weight.dtype)  # [C] each
        dist.all_reduce(sums, group=ctx.group)
        dx, dx2 = operations.input_gradients_of_two(
            masked, x, weight, statistics, x2, weight2, statistics2, sums, ctx.count
        )
        first, second = (dx, own_weight, own_bias), (dx2, own_weight2, own_bias2)
        return *first, None, None, *second, None, None, *(None,) * 6
