"""Starts the kernels of batch norm (`trainer.distributed.batch_norm_kernels`) with a grid that suits the batch."""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from trainer.distributed import batch_norm_kernels as kernels
from trainer.distributed.batch_norm_library import sum_type

_PROGRAMS = 512
"""Number of programs that share the rows of a batch: a few for each processor of a large GPU."""
_TILE = 4096
"""Elements that a program handles at once."""
_MOST_COLUMNS = 128


def view_statistics(x: Tensor, views: int) -> Tensor:
    """Return mean and biased variance of each channel of each view of x [V * B, C, …]: [V, 2, C]."""
    rows, columns = as_matrix(x, views)
    grid, chunk, tile = chunks(rows, columns, views)
    parts = x.new_empty((grid[1], views, 2, columns), dtype=sum_type(x))
    kernels.statistics_of_chunks[grid](x, parts, rows, chunk, columns, *tile, SUM=triton_type(parts))
    if grid[1] == 1:
        return parts[0]
    out = torch.empty_like(parts[0])
    _start_combine(parts, out, None, None, chunk, rows, 0.0, 0.0)
    return out


def combine_statistics(
    found: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float, rows: int
) -> Tensor:
    """Return mean and 1 / sqrt(variance + eps) of each view over all ranks, [V, 2, C].

    The running statistics [C] follow one view after the other.

    Args:
        found: what `view_statistics` returned on each of W ranks, [W, V, 2, C]. Only the last three dimensions need to
            be contiguous.
        running_mean: changed in place.
        running_var: changed in place, by unbiased variances.
        momentum: weight of a view.
        eps: added to variances.
        rows: rows of a view on each rank. Every rank has the same number.
    """
    out = torch.empty_like(found[0])
    _start_combine(found, out, running_mean, running_var, rows, rows * len(found), momentum, eps)
    return out


def normalize(
    x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, residual: Tensor | None, relu: bool
) -> Tensor:
    """Return each view of x [V * B, C, …] normalized by its statistics [V, 2, C], in the type of x.

    Args:
        x: the input.
        weight: of each channel, [C].
        bias: of each channel, [C].
        statistics: what `combine_statistics` returned, [V, 2, C].
        residual: added to the result, in the shape and type of x.
        relu: whether negative results become 0.
    """
    out = torch.empty_like(x)
    rows, columns = as_matrix(x, len(statistics))
    grid, tile = tiles(rows, columns, len(statistics))
    kernels.normalize[grid](
        x,
        weight,
        bias,
        statistics,
        x if residual is None else residual,
        out,
        rows,
        columns,
        relu,
        residual is not None,
        *tile,
        SUM=triton_type(statistics),
    )
    return out


def gradient_sums(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, relu: bool
) -> Tensor:
    """Return for each view the sums over this rank's rows of dy and of dy times the normalized x: [V, 2, C].

    The arguments are those of `normalize`, without a residual, and the gradient dy of its result.
    """
    return _start_gradient_sums(dy, None, x, None, weight, bias, statistics, None, relu)


def residual_gradient_sums(
    dy: Tensor, dy2: Tensor | None, x: Tensor, y: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the residual, in the shape of x, and the sums of `gradient_sums` for this gradient.

    A sum of two gradients is computed in the type of the sums and rounded once to the type of x, as autograd would
    round it. The results then have the same bits.

    Args:
        dy: gradient of y, or the first part of it.
        dy2: the second part, which is added.
        x: input of `normalize`.
        y: its result with a residual and ReLU.
        statistics: what `combine_statistics` returned, [V, 2, C].
    """
    masked, unused = torch.empty_like(x), statistics
    return masked, _start_gradient_sums(dy, dy2, x, y, unused, unused, statistics, masked, False)


def input_gradient(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    sums: Tensor,
    count: int,
    relu: bool,
) -> Tensor:
    """Return the gradient of x [V * B, C, …].

    Args:
        dy: gradient of the result of `normalize`, or if that had a residual, the gradient of the residual.
        x: its input.
        weight: of each channel, [C].
        bias: of each channel, [C].
        statistics: what `combine_statistics` returned, [V, 2, C].
        sums: what `gradient_sums` returned, summed over the ranks, [V, 2, C].
        count: rows of a view on all ranks.
        relu: whether `normalize` had ReLU and no residual.
    """
    out = torch.empty_like(x)
    rows, columns = as_matrix(x, len(statistics))
    grid, tile = tiles(rows, columns, len(statistics))
    kernels.input_gradient[grid](
        dy,
        x,
        weight,
        bias,
        statistics,
        sums,
        out,
        rows,
        columns,
        count,
        relu,
        *tile,
        SUM=triton_type(statistics),
    )
    return out


def triton_type(sums: Tensor) -> tl.dtype:
    """Return Triton's name for the type of sums."""
    return tl.float64 if sums.dtype == torch.float64 else tl.float32


def as_matrix(x: Tensor, views: int) -> tuple[int, int]:
    """Return the rows of a view and the columns of x as a matrix."""
    return x.numel() // x.shape[1] // views, x.shape[1]


def _tile(rows: int, columns: int) -> tuple[int, int]:
    wide = min(_MOST_COLUMNS, triton.next_power_of_2(columns))
    return min(_TILE // wide, triton.next_power_of_2(rows)), wide


def tiles(rows: int, columns: int, views: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the grid and the tile of an elementwise kernel."""
    tall, wide = _tile(rows, columns)
    return (triton.cdiv(rows, tall), triton.cdiv(columns, wide), views), (tall, wide)


def chunks(rows: int, columns: int, views: int) -> tuple[tuple[int, int, int], int, tuple[int, int]]:
    """Return the grid, the rows of a chunk and the tile of a kernel that sums over rows."""
    tall, wide = _tile(rows, columns)
    across = triton.cdiv(columns, wide)
    wanted = max(1, _PROGRAMS // (across * views))
    chunk = tall * triton.cdiv(triton.cdiv(rows, wanted), tall)
    return (across, triton.cdiv(rows, chunk), views), chunk, (tall, wide)


def _start_gradient_sums(
    dy: Tensor,
    dy2: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    masked: Tensor | None,
    relu: bool,
) -> Tensor:
    rows, columns = as_matrix(x, len(statistics))
    grid, chunk, tile = chunks(rows, columns, len(statistics))
    parts = statistics.new_empty((grid[1], *statistics.shape))
    kernels.gradient_sums_of_chunks[grid](
        dy,
        dy if dy2 is None else dy2,
        x,
        x if y is None else y,
        weight,
        bias,
        statistics,
        parts,
        x if masked is None else masked,
        rows,
        chunk,
        columns,
        relu,
        masked is not None,
        dy2 is not None,
        *tile,
        SUM=triton_type(statistics),
    )
    return parts.sum(0)


def _start_combine(
    parts: Tensor,
    out: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    chunk: int,
    rows: int,
    momentum: float,
    eps: float,
) -> None:
    number, views, _, columns = parts.shape
    together = triton.next_power_of_2(number)
    wide = min(triton.next_power_of_2(columns), max(1, _TILE // together))
    kernels.combine[(triton.cdiv(columns, wide),)](
        parts,
        out,
        out if running_mean is None else running_mean,
        out if running_var is None else running_var,
        number,
        views,
        columns,
        parts.stride(0),
        chunk,
        rows,
        MOMENTUM=momentum,  # a constant, because numbers in arguments are rounded to float32
        EPS=eps,
        FINAL=running_mean is not None,
        PARTS=together,
        COLUMNS=wide,
        SUM=triton_type(parts),
    )
