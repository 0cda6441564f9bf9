"""Batch norm whose batch statistics span the batches of several ranks."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.distributed.collectives import world_size


class _CrossRankNorm(torch.autograd.Function):
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
        count: float,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, means, variances)  # statistics: [V, C]
        ctx.eps, ctx.count, ctx.group = eps, count, group
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
        x, weight, means, variances = ctx.saved_tensors
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
            slope = -weight * invstd.square() * total[1] / ctx.count  # [C]
            offset = -weight * invstd * total[0] / ctx.count - slope * mean  # [C]
            torch.addcmul(offset.view(shape).to(x.dtype), rows, slope.view(shape).to(x.dtype), out=place)
            place.add_(dx)
        return out, own[1], own[0], None, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class CrossRankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks of `process_group` (None: all), on any device ([B, C] or [B, C, H, W]).

    `torch.nn.SyncBatchNorm` does not accept CPU tensors. This module equals batch norm over the whole batch up to
    rounding, forward and backward. Evaluation mode is that of ordinary batch norm.
    """

    process_group: dist.ProcessGroup | None = None
    views = 1
    """Number of views stacked in a batch. Each has its own batch statistics. `forward_per_view` sets it for all
    layers."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected [B, C] or [B, C, H, W], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [B, C, …]. Returns the same shape."""
        self._check_input_dim(input)
        if not self.training or world_size() == 1:
            return super().forward(input)
        means, variances, count = self._global_statistics(input.detach())
        self._follow(means, variances * (count / max(count - 1, 1)))
        return _CrossRankNorm.apply(
            input, self.weight, self.bias, means, variances, self.eps, count, self.process_group
        )

    @torch.no_grad()
    def _follow(self, means: Tensor, unbiased: Tensor) -> None:
        """Update the running statistics by the batch statistics [V, C] of each view, one view after the other."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += len(means)
        for mean, variance in zip(means, unbiased, strict=True):
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)

    @torch.no_grad()
    def _global_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return means [V, C], biased variances [V, C] and rows per view, over all ranks of the group."""
        parts = [
            torch.stack(_mean_and_variance(view, like=self.running_mean)) for view in x.chunk(self.views)
        ]
        local = torch.stack(parts)  # [V, 2, C]
        count = local.new_full((1,), x.numel() / x.shape[1] / self.views)
        own = torch.cat([local.flatten(), count])[None]  # [1, 2VC + 1]
        found = own.new_empty(dist.get_world_size(self.process_group), own.shape[1])  # [ranks, 2VC + 1]
        dist.all_gather_single(found, own, group=self.process_group)
        means, variances = found[:, :-1].unflatten(1, local.shape).unbind(2)  # [ranks, V, C] each
        counts = found[:, -1]
        total = counts.sum()
        weights = (counts / total)[:, None, None]
        # Chan et al. 1979: combining centered sums avoids the cancellation of a difference of sums.
        mean = (weights * means).sum(0)
        var = (weights * (variances + (means - mean).square())).sum(0)
        return mean, var, float(total)


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
    for norm in norms:
        norm.views = len(views)
    try:
        out: Tensor = network(torch.cat(list(views)) if len(views) > 1 else views[0])
    finally:
        for norm in norms:
            norm.views = 1
    return out.chunk(len(views))


def _mean_and_variance(x: Tensor, like: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel of [B, C, …] in the precision of `like`.

    Torch's kernel for running statistics is twelve times as fast here as `var_mean`. With a momentum of 1 its result is
    the statistics of the batch, in the precision of the running statistics even if x has a lower one.
    """
    assert like is not None
    rows = x.numel() // x.shape[1]
    if rows == 1:
        return x.to(like.dtype).reshape(-1), torch.zeros_like(like)
    mean, unbiased = torch.zeros_like(like), torch.zeros_like(like)
    torch.ops.aten.batch_norm_update_stats(x, mean, unbiased, 1.0)
    return mean, unbiased * ((rows - 1) / rows)


class CrossRankBatchNormAct(CrossRankBatchNorm):
    """The same for timm's batch norm with a built-in activation. `drop` and `act` follow the batch norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate [B, C, H, W]. Returns the same shape."""
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


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
    """Replace every batch norm by one across ranks: that of torch or timm on CUDA, `CrossRankBatchNorm` elsewhere.

    Every rank must call, because this function creates process groups.

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
    group = None if size == ranks else dist.new_subgroups(size)[0]
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module, group)
    return _convert(module, group)


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
        or not module.affine
        or not module.track_running_stats
        or module.momentum is None
    ):
        raise UserError(
            f"{module} cannot compute its batch statistics over all ranks",
            where="parallel.batch_norm",
            fix="set parallel.batch_norm=rank, or choose another backbone",
        )
    like = module.weight
    kind = CrossRankBatchNorm if plain else CrossRankBatchNormAct
    norm = kind(module.num_features, module.eps, module.momentum, device=like.device, dtype=like.dtype)
    if activated:
        norm.drop, norm.act = module.drop, module.act
    norm.load_state_dict(module.state_dict())
    norm.train(module.training)
    for name, parameter in module.named_parameters(recurse=False):
        getattr(norm, name).requires_grad_(parameter.requires_grad)
    return norm
