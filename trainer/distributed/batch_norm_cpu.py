"""Batch norm across ranks on CPUs: one message forward and one backward for all views. Ranks may differ in rows."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
) -> Tensor:
    """Normalize V stacked views [V * B, C, …], each by its batch statistics over the ranks of a group.

    The running statistics follow one view after the other. Returns the same shape and type.
    """
    means, variances, count = _global_statistics(x.detach(), views, running_mean, group)
    unbiased = variances * (count / (count - 1).clamp(min=1))
    with torch.no_grad():
        for mean, variance in zip(means, unbiased, strict=True):
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance, momentum)
    out: Tensor = _Normalization.apply(x, weight, bias, means, variances, eps, count, group)
    return out


@torch.no_grad()
def _global_statistics(
    x: Tensor, views: int, like: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return means [V, C], biased variances [V, C] and rows per view [] in float64, over all ranks of the group."""
    local = _means_and_variances(x, like, views)  # [V, 2, C]
    count = local.new_full((1,), x.numel() / x.shape[1] / views)
    own = torch.cat([local.flatten(), count])[None]  # [1, 2VC + 1]
    found = own.new_empty(dist.get_world_size(group), own.shape[1])  # [ranks, 2VC + 1]
    dist.all_gather_single(found, own, group=group)
    means, variances = found[:, :-1].unflatten(1, local.shape).unbind(2)  # [ranks, V, C] each
    counts = found[:, -1]
    total = counts.sum()
    weights = (counts / total)[:, None, None]
    # Chan et al. 1979: combining centered sums avoids the cancellation of a difference of sums.
    mean = (weights * means).sum(0)
    var = (weights * (variances + (means - mean).square())).sum(0)
    return mean, var, total.double()  # a number of Python would end the graph of torch.compile here


class _Normalization(torch.autograd.Function):
    """Batch norm of V stacked views [V * B, C, …]. Each view is normalized by its batch statistics [C] over all ranks.
    The forward and the backward pass need one message each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        means: Tensor,
        variances: Tensor,
        eps: float,
        count: Tensor,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, means, variances, count)  # statistics: [V, C]
        ctx.eps, ctx.group = eps, group
        out = torch.empty_like(x)
        unused = means.new_empty(0)
        views = zip(x.chunk(len(means)), means, variances, out.chunk(len(means)), strict=True)
        for rows, mean, var, place in views:
            torch.ops.aten.native_batch_norm.out(
                rows,
                weight,
                bias,
                mean,
                var,
                False,
                0.0,
                eps,
                out=place,
                save_mean=unused,
                save_invstd=unused,
            )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, variances, count = ctx.saved_tensors
        views = list(
            zip(
                grad.contiguous(memory_format=_format(x)).chunk(len(means)),
                x.chunk(len(means)),
                means,
                variances,
                strict=True,
            )
        )
        # The inference-mode kernel computes w * invstd * dy and both local sums in one pass. Training mode adds a
        # term that is affine in x per channel (Ioffe & Szegedy 2015, section 3), with the sums taken over all ranks.
        local = [
            torch.ops.aten.native_batch_norm_backward(
                dy, rows, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
            for dy, rows, mean, var in views
        ]  # V x (dx, dweight, dbias)
        sums = torch.stack([torch.stack([dbias, dweight]) for _, dweight, dbias in local])  # [V, 2, C]
        sums = sums.to(means.dtype)
        own = sums.sum(0)
        dist.all_reduce(sums, group=ctx.group)
        out = torch.empty_like(x)
        shape = [1, -1] + [1] * (x.dim() - 2)
        places = out.chunk(len(means))
        for (_, rows, mean, var), (dx, _, _), total, place in zip(views, local, sums, places, strict=True):
            invstd = (var + ctx.eps).rsqrt()
            slope = -weight * invstd.square() * total[1] / count  # [C]
            offset = -weight * invstd * total[0] / count - slope * mean  # [C]
            torch.addcmul(offset.view(shape).to(x.dtype), rows, slope.view(shape).to(x.dtype), out=place)
            place.add_(dx)
        return out, own[1], own[0], None, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


@torch.library.custom_op("all4one::means_and_variances", mutates_args=())
def _means_and_variances(x: Tensor, like: Tensor, views: int) -> Tensor:
    """Return mean and biased variance of each channel of V views of x [V * B, C, …] in the type of `like`: [V, 2, C].

    It is an operation of its own because torch.compile cannot trace torch's kernel for running statistics. That is
    twelve times as fast here as `var_mean`. With a momentum of 1 its result is the statistics of the batch, in the
    precision of the running statistics even if x has a lower one.
    """
    return torch.stack([torch.stack(_mean_and_variance(view, like)) for view in x.chunk(views)])


@_means_and_variances.register_fake
def _(x: Tensor, like: Tensor, views: int) -> Tensor:
    return like.new_empty(views, 2, x.shape[1])


def _mean_and_variance(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel of one view [B, C, …] in the type of `like`."""
    rows = x.numel() // x.shape[1]
    if rows == 1:
        return x.to(like.dtype).reshape(-1), torch.zeros_like(like)
    mean, unbiased = torch.zeros_like(like), torch.zeros_like(like)
    torch.ops.aten.batch_norm_update_stats(x, mean, unbiased, 1.0)
    return mean, unbiased * ((rows - 1) / rows)
