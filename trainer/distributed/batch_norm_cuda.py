"""Batch norm across ranks on CUDA devices: one message forward and one backward for all views, and no host wait."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_OPERATIONS = {
    "view_statistics": "(Tensor x, int views) -> Tensor",
    "combine_statistics": "(Tensor found, Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, float eps, "
    "int rows) -> Tensor",
    "normalize": "(Tensor x, Tensor weight, Tensor bias, Tensor statistics, Tensor? residual, bool relu) -> Tensor",
    "gradient_sums": "(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor statistics, bool relu) -> Tensor",
    "residual_gradient_sums": "(Tensor dy, Tensor x, Tensor y, Tensor statistics) -> (Tensor, Tensor)",
    "input_gradient": "(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor statistics, Tensor sums, int count, "
    "bool relu) -> Tensor",
}
"""The kernels as operations of torch, by name. `trainer.distributed.batch_norm_operations` has their documentation."""

_library = torch.library.Library("all4one", "DEF")


def _started(name: str) -> Any:
    def start(*args: Any) -> Any:
        # Triton is not loaded on machines without a GPU.
        from trainer.distributed import batch_norm_operations

        return getattr(batch_norm_operations, name)(*args)

    return start


def _sums(x: Tensor, views: int) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((views, 2, x.shape[1]), dtype=dtype)


_SHAPES: dict[str, Any] = {
    "view_statistics": _sums,
    "combine_statistics": lambda found, *_: torch.empty_like(found[0]),
    "normalize": lambda x, *_: torch.empty_like(x),
    "gradient_sums": lambda dy, x, weight, bias, statistics, relu: torch.empty_like(statistics),
    "residual_gradient_sums": lambda dy, x, y, statistics: (
        torch.empty_like(x),
        torch.empty_like(statistics),
    ),
    "input_gradient": lambda dy, x, *_: torch.empty_like(x),
}
"""Results without values, for FakeTensors."""

for _name, _signature in _OPERATIONS.items():
    _library.define(f"{_name}{_signature}")
    _library.impl(_name, _started(_name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"all4one::{_name}", _SHAPES[_name], lib=_library)


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
    residual: Tensor | None,
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
        residual: added to the result, in the shape and type of x. `relu` must be true.
        relu: whether negative results become 0.

    Returns the same shape and type.
    """
    out: Tensor = _Normalization.apply(
        x, weight, bias, running_mean, running_var, residual, momentum, eps, views, group, relu
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
        residual: Tensor | None,
        momentum: float,
        eps: float,
        views: int,
        group: dist.ProcessGroup | None,
        relu: bool,
    ) -> Tensor:
        operations = torch.ops.all4one
        x = x.contiguous(memory_format=_format(x))
        rows = x.numel() // x.shape[1] // views
        own = operations.view_statistics(x, views)  # [V, 2, C]
        found = own.new_empty((dist.get_world_size(group), *own.shape))  # [W, V, 2, C]
        dist.all_gather_single(found, own[None], group=group)
        statistics = operations.combine_statistics(found, running_mean, running_var, momentum, eps, rows)
        if residual is not None:
            residual = residual.to(x.dtype).contiguous(memory_format=_format(x))
        out: Tensor = operations.normalize(x, weight, bias, statistics, residual, relu)
        # The next layer keeps its input too, so `out` takes no more memory.
        ctx.save_for_backward(x, weight, bias, statistics, None if residual is None else out)
        ctx.group, ctx.count, ctx.relu = group, rows * len(found), relu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operations = torch.ops.all4one
        x, weight, bias, statistics, y = ctx.saved_tensors
        dy, relu = grad.contiguous(memory_format=_format(x)), ctx.relu
        of_residual = None
        if y is None:
            sums = operations.gradient_sums(dy, x, weight, bias, statistics, relu)  # [V, 2, C]
        else:
            dy, sums = operations.residual_gradient_sums(dy, x, y, statistics)
            of_residual, relu = dy, False
        own_bias, own_weight = sums.sum(0).to(weight.dtype)
        dist.all_reduce(sums, group=ctx.group)
        out = operations.input_gradient(dy, x, weight, bias, statistics, sums, ctx.count, relu)
        return out, own_weight, own_bias, None, None, of_residual, None, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format
