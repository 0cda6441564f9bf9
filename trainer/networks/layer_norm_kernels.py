"""Triton kernels of layer norm for rows [..., D], and the functions that start them.

Activations have any types, weights usually float32. All sums are in float32. Equal inputs give equal bits, because no
operation is atomic.
"""
# mypy: allow-untyped-defs

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

_TILE = 2048
"""Elements that a program handles at once. A longer row is handled alone."""
_WARP = 512
"""Elements of a tile for each warp, 16 for each thread. The sums then stay in registers."""
_MOST_WARPS = 8
"""With more, a thread has too few registers for the longest rows."""
_PROGRAMS = 512
"""Number of programs that share the sums over rows: a few for each processor of a large GPU."""


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the normalized rows of a contiguous x [..., D] in `dtype`, and mean and 1 / sqrt(variance + eps) of each
    of R rows, [2, R] float32.

    Args:
        x: the input.
        weight: of each column, [D].
        bias: of each column, [D].
        eps: added to variances.
        dtype: type of the result.
    """
    rows, columns = _matrix(x)
    out = torch.empty_like(x, dtype=dtype)
    statistics = x.new_empty((2, rows), dtype=torch.float32)
    tall, wide, warps = _tile(columns)
    _normalize[(triton.cdiv(rows, tall),)](
        x, weight, bias, out, statistics, rows, columns, eps, tall, wide, num_warps=warps
    )
    return out, statistics


def layer_norm_gradients(dy: Tensor, x: Tensor, weight: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of x [..., D], and the gradients of weight and bias [2, D] float32.

    Args:
        dy: gradient of the result of `layer_norm`, contiguous.
        x: its input.
        weight: of each column, [D].
        statistics: its second result, [2, R].
    """
    rows, columns = _matrix(x)
    dx = torch.empty_like(x)
    tall, wide, warps = _tile(columns)
    chunk = tall * triton.cdiv(triton.cdiv(rows, _PROGRAMS), tall)
    programs = triton.cdiv(rows, chunk)
    parts = statistics.new_empty((programs, 2, columns))
    _gradients[(programs,)](
        dy, x, weight, statistics, dx, parts, rows, chunk, columns, tall, wide, num_warps=warps
    )
    return dx, parts.sum(0)


def _matrix(x: Tensor) -> tuple[int, int]:
    """Return the rows and columns of x as a matrix."""
    return x.numel() // x.shape[-1], x.shape[-1]


def _tile(columns: int) -> tuple[int, int, int]:
    """Return rows and columns of a tile, which holds whole rows, and the number of warps that handle it."""
    wide = triton.next_power_of_2(columns)
    tall = max(1, _TILE // wide)
    return tall, wide, min(_MOST_WARPS, tall * wide // _WARP)


@triton.jit
def _normalize(
    x, weight, bias, out, statistics, rows, columns, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """(x - mean) * invstd * weight + bias of each row. `statistics` [2, R] receives mean and invstd."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    used = (row < rows)[:, None] & inside[None, :]
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(x + place, mask=used, other=0.0).to(tl.float32)
    mean = tl.sum(value, 1) / columns
    apart = tl.where(used, value - mean[:, None], 0.0)
    invstd = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / columns + eps)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    made = apart * invstd[:, None] * scale[None, :] + offset[None, :]
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)
    tl.store(statistics + row, mean, mask=row < rows)
    tl.store(statistics + rows + row, invstd, mask=row < rows)


@triton.jit
def _gradients(
    dy, x, weight, statistics, dx, parts, rows, chunk, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Gradient of x for a chunk of rows (Ba et al. 2016): with g = dy * weight and the normalized x, n,
    invstd * (g - mean(g) - n * mean(g * n)). `parts` [chunks, 2, D] receives the chunk's sums of dy * n and of dy.
    """
    part = tl.program_id(0)
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    of_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    of_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        used = (row < end)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        mean = tl.load(statistics + row, mask=row < end, other=0.0)
        invstd = tl.load(statistics + rows + row, mask=row < end, other=0.0)
        gradient = tl.load(dy + place, mask=used, other=0.0).to(tl.float32)
        value = tl.load(x + place, mask=used, other=0.0).to(tl.float32)
        normal = (value - mean[:, None]) * invstd[:, None]
        of_weight += gradient * normal
        of_bias += gradient
        scaled = gradient * scale[None, :]
        level = tl.sum(scaled, 1) / columns
        slope = tl.sum(scaled * normal, 1) / columns
        made = (scaled - level[:, None] - normal * slope[:, None]) * invstd[:, None]
        tl.store(dx + place, made.to(dx.dtype.element_ty), mask=used)
    place = parts + part * 2 * columns + column
    tl.store(place, tl.sum(of_weight, 0), mask=inside)
    tl.store(place + columns, tl.sum(of_bias, 0), mask=inside)
