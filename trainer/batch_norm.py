"""Batch norm whose moments span the batches of several ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.errors import UserError
from trainer.parallel import world_size


class _CrossRankNorm(torch.autograd.Function):
    """Batch norm by the moments of the global batch; one message forward, one backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, count: float,
        group: dist.ProcessGroup | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.count, ctx.group = eps, count, group
        return torch.nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        # The inference-mode kernel yields w * invstd * dy and both local sums in one pass. What training mode
        # adds is affine in x per channel (Ioffe & Szegedy 2015, section 3), with the sums taken over all ranks.
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(memory_format=_format(x)),
            x,
            weight,
            mean,
            var,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        sums = torch.stack([dbias, dweight]).to(mean.dtype)  # [2, C]
        dist.all_reduce(sums, group=ctx.group)
        invstd = (var + ctx.eps).rsqrt()
        slope = -weight * invstd.square() * sums[1] / ctx.count  # [C]
        offset = -weight * invstd * sums[0] / ctx.count - slope * mean  # [C]
        shape = [1, -1] + [1] * (x.dim() - 2)
        dx = torch.addcmul(offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype)).add_(dx)
        return dx, dweight, dbias, None, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class CrossRankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks of `process_group` (None: all), on any device ([B, C] or [B, C, H, W]).

    `torch.nn.SyncBatchNorm` refuses CPU tensors; this one equals batch norm over the whole batch up to rounding,
    forward and backward. Evaluation mode is the ordinary one.
    """

    process_group: dist.ProcessGroup | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected [B, C] or [B, C, H, W], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, …]; the same shape."""
        self._check_input_dim(input)
        if not self.training or world_size() == 1:
            return super().forward(input)
        mean, var, count = self._global_moments(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / max(count - 1, 1)), self.momentum)
        return _CrossRankNorm.apply(
            input, self.weight, self.bias, mean, var, self.eps, count, self.process_group
        )

    @torch.no_grad()
    def _global_moments(self, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean [C], biased variance [C] and rows of the batches of all ranks of the group."""
        mean, var = _moments(x, like=self.running_mean)
        count = mean.new_full((1,), x.numel() / x.shape[1])
        own = torch.cat([mean, var, count])[None]  # [1, 2C + 1]
        parts = own.new_empty(dist.get_world_size(self.process_group), own.shape[1])  # [ranks, 2C + 1]
        dist.all_gather_single(parts, own, group=self.process_group)
        means, variances, counts = parts.split([len(mean), len(var), 1], dim=1)
        total = counts.sum()
        weights = counts / total
        # Chan et al. 1979: combining centred moments does not cancel as a difference of sums would
        mean = (weights * means).sum(0)
        var = (weights * (variances + (means - mean).square())).sum(0)
        return mean, var, float(total)


def _moments(x: Tensor, like: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of [B, C, …] in the precision of `like`.

    Torch's own kernel for running statistics is twelve times as fast here as `var_mean`, and with a momentum of 1 its
    result is the batch's own, in the running statistics' precision where x is of a lower one.
    """
    assert like is not None
    rows = x.numel() // x.shape[1]
    if rows == 1:
        return x.to(like.dtype).reshape(-1), torch.zeros_like(like)
    mean, unbiased = torch.zeros_like(like), torch.zeros_like(like)
    torch.ops.aten.batch_norm_update_stats(x, mean, unbiased, 1.0)
    return mean, unbiased * ((rows - 1) / rows)


class CrossRankBatchNormAct(CrossRankBatchNorm):
    """The same for timm's batch norm that has an activation inside: its `drop` and `act` follow."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise and activate [B, C, H, W]; the same shape."""
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


def require_group(size: int, ranks: int) -> None:
    """Raise a UserError where groups of `size` ranks do not make up all `ranks`; 0, for one group of all, does."""
    if size and ranks % size:
        divisors = [d for d in range(1, ranks + 1) if ranks % d == 0]
        near = [max(d for d in divisors if d < size), *[d for d in divisors if d > size][:1]]
        raise UserError(
            f"parallel.batch_norm_group ({size}) does not divide {ranks} process{'es' * (ranks > 1)}",
            fix=f"nearest that does: {' and '.join(map(str, near))}",
        )


def synchronise_batch_norm(module: nn.Module, device: torch.device, group_size: int = 0) -> nn.Module:
    """Replace every batch norm by one across ranks: torch's and timm's own on CUDA, the portable one elsewhere.

    Args:
        module: changed in place.
        device: where it will be.
        group_size: consecutive ranks that share moments; 0: all. Every rank must call, since groups are made here.

    Raises:
        UserError: the group does not divide the ranks; a kind of batch norm that is not known to work across ranks.
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
            f"{module} cannot take its moments from all ranks",
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
