"""Triton kernels of batch norm for V stacked views [V * B, C, …] in channels-last memory, and their start.

In memory such a batch is a matrix of V * R rows and C columns, with R = B * H * W rows of each view. Sums over rows
take two kernels and no atomic operations, so equal inputs give equal bits. They are in float32, or in float64 for
float64.
"""
# mypy: allow-untyped-defs

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

_PROGRAMS = 512
"""Number of programs that share the rows of a batch: a few for each processor of a large GPU."""
_TILE = 4096
"""Elements that a program handles at once."""
_MOST_COLUMNS = 128


@triton.jit
def _statistics_of_chunks(
    x, parts, rows, chunk, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SUM: tl.constexpr
):
    """Mean and biased variance of each column in a chunk of rows: parts [chunks, V, 2, C]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part, view = tl.program_id(1), tl.program_id(2)
    inside = column < columns
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    own = x + view.to(tl.int64) * rows * columns + column
    # Sums of distances from one of the values do not cancel if the mean is far from zero.
    origin = tl.load(own + start.to(tl.int64) * columns, mask=inside, other=0.0).to(SUM)
    total = tl.zeros([COLUMNS], SUM)
    squares = tl.zeros([COLUMNS], SUM)
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        used = (row < end)[:, None] & inside[None, :]
        value = tl.load(own[None, :] + row.to(tl.int64)[:, None] * columns, mask=used, other=0.0).to(SUM)
        apart = tl.where(used, value - origin[None, :], 0.0)
        total += tl.sum(apart, 0)
        squares += tl.sum(apart * apart, 0)
    count = (end - start).to(SUM)
    variance = tl.maximum((squares - total * total / count) / count, 0.0)
    place = parts + (part * tl.num_programs(2) + view) * 2 * columns + column
    tl.store(place, origin + total / count, mask=inside)
    tl.store(place + columns, variance, mask=inside)


@triton.jit
def _combine(
    parts,
    out,
    running_mean,
    running_var,
    number,
    views,
    columns,
    chunk,
    rows,
    MOMENTUM: tl.constexpr,
    EPS: tl.constexpr,
    FINAL: tl.constexpr,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """Statistics of all rows from those of chunks [chunks, V, 2, C], of which only the last may be shorter (Chan et al.
    1979): mean and biased variance, or if FINAL mean and 1 / sqrt(variance + eps), which the running ones then follow.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    part = tl.arange(0, PARTS)
    used = (part < number)[:, None] & inside[None, :]
    counts = tl.maximum(tl.minimum(chunk, rows - part * chunk), 0).to(SUM)
    count = tl.sum(counts, 0)
    weight = (counts / count)[:, None]
    for view in range(0, views):
        place = parts + (part * views + view)[:, None] * 2 * columns + column[None, :]
        means = tl.load(place, mask=used, other=0.0).to(SUM)
        variances = tl.load(place + columns, mask=used, other=0.0).to(SUM)
        mean = tl.sum(weight * means, 0)
        apart = means - mean[None, :]
        variance = tl.sum(tl.where(used, weight * (variances + apart * apart), 0.0), 0)
        second = variance
        if FINAL:
            second = 1.0 / tl.sqrt(variance + EPS)
            before = tl.load(running_mean + column, mask=inside, other=0.0)
            tl.store(running_mean + column, before + MOMENTUM * (mean - before), mask=inside)
            before = tl.load(running_var + column, mask=inside, other=0.0)
            unbiased = variance * (count / tl.maximum(count - 1, 1))
            tl.store(running_var + column, before + MOMENTUM * (unbiased - before), mask=inside)
        tl.store(out + view * 2 * columns + column, mean, mask=inside)
        tl.store(out + view * 2 * columns + columns + column, second, mask=inside)


@triton.jit
def _normalize(
    x,
    weight,
    bias,
    statistics,
    out,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """(x - mean) * invstd * weight + bias."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    view = tl.program_id(2)
    inside = column < columns
    used = (row < rows)[:, None] & inside[None, :]
    known = statistics + view * 2 * columns + column
    mean = tl.load(known, mask=inside, other=0.0)
    scale = tl.load(known + columns, mask=inside, other=0.0) * tl.load(
        weight + column, mask=inside, other=0.0
    ).to(SUM)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(SUM)
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    value = tl.load(x + place, mask=used, other=0.0).to(SUM)
    made = (value - mean[None, :]) * scale[None, :] + offset[None, :]
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)


@triton.jit
def _gradient_sums_of_chunks(
    dy,
    x,
    statistics,
    parts,
    rows,
    chunk,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """Sums of dy and of dy times the normalized x over a chunk of rows: parts [chunks, V, 2, C]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part, view = tl.program_id(1), tl.program_id(2)
    inside = column < columns
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    known = statistics + view * 2 * columns + column
    mean = tl.load(known, mask=inside, other=0.0)
    invstd = tl.load(known + columns, mask=inside, other=0.0)
    total = tl.zeros([COLUMNS], SUM)
    product = tl.zeros([COLUMNS], SUM)
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        used = (row < end)[:, None] & inside[None, :]
        place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
        gradient = tl.load(dy + place, mask=used, other=0.0).to(SUM)
        value = tl.load(x + place, mask=used, other=0.0).to(SUM)
        total += tl.sum(gradient, 0)
        product += tl.sum(gradient * (value - mean[None, :]), 0)
    place = parts + (part * tl.num_programs(2) + view) * 2 * columns + column
    tl.store(place, total, mask=inside)
    tl.store(place + columns, product * invstd, mask=inside)


@triton.jit
def _input_gradient(
    dy,
    x,
    weight,
    statistics,
    sums,
    out,
    rows,
    columns,
    count,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """weight * invstd * (dy - (sum of dy + normalized x * sum of dy times normalized x) / count), with sums over all
    ranks (Ioffe & Szegedy 2015, section 3)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    view = tl.program_id(2)
    inside = column < columns
    used = (row < rows)[:, None] & inside[None, :]
    known = view * 2 * columns + column
    mean = tl.load(statistics + known, mask=inside, other=0.0)
    invstd = tl.load(statistics + known + columns, mask=inside, other=0.0)
    total = tl.load(sums + known, mask=inside, other=0.0) / count
    product = tl.load(sums + known + columns, mask=inside, other=0.0) / count
    scale = invstd * tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    gradient = tl.load(dy + place, mask=used, other=0.0).to(SUM)
    normal = (tl.load(x + place, mask=used, other=0.0).to(SUM) - mean[None, :]) * invstd[None, :]
    made = scale[None, :] * (gradient - total[None, :] - normal * product[None, :])
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)


def view_statistics(x: Tensor, views: int) -> Tensor:
    """Return mean and biased variance of each channel of each view of x [V * B, C, …]: [V, 2, C]."""
    rows, columns = _matrix(x, views)
    grid, chunk, tile = _chunks(rows, columns, views)
    parts = x.new_empty((grid[1], views, 2, columns), dtype=sum_type(x))
    _statistics_of_chunks[grid](x, parts, rows, chunk, columns, *tile, SUM=_triton_type(parts))
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
        found: what `view_statistics` returned on each of W ranks, [W, V, 2, C].
        running_mean: changed in place.
        running_var: changed in place, by unbiased variances.
        momentum: weight of a view.
        eps: added to variances.
        rows: rows of a view on each rank. Every rank has the same number.
    """
    out = torch.empty_like(found[0])
    _start_combine(found, out, running_mean, running_var, rows, rows * len(found), momentum, eps)
    return out


def normalize(x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor) -> Tensor:
    """Return each view of x [V * B, C, …] normalized by its statistics [V, 2, C], in the type of x."""
    out = torch.empty_like(x)
    rows, columns = _matrix(x, len(statistics))
    grid, tile = _tiles(rows, columns, len(statistics))
    _normalize[grid](x, weight, bias, statistics, out, rows, columns, *tile, SUM=_triton_type(statistics))
    return out


def gradient_sums(dy: Tensor, x: Tensor, statistics: Tensor) -> Tensor:
    """Return for each view the sums over this rank's rows of dy and of dy times the normalized x: [V, 2, C]."""
    rows, columns = _matrix(x, len(statistics))
    grid, chunk, tile = _chunks(rows, columns, len(statistics))
    parts = statistics.new_empty((grid[1], *statistics.shape))
    _gradient_sums_of_chunks[grid](
        dy, x, statistics, parts, rows, chunk, columns, *tile, SUM=_triton_type(statistics)
    )
    return parts.sum(0)


def input_gradient(
    dy: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, sums: Tensor, count: int
) -> Tensor:
    """Return the gradient of x [V * B, C, …].

    Args:
        dy: gradient of the result of `normalize`.
        x: its input.
        weight: of each channel, [C].
        statistics: what `combine_statistics` returned, [V, 2, C].
        sums: what `gradient_sums` returned, summed over the ranks, [V, 2, C].
        count: rows of a view on all ranks.
    """
    out = torch.empty_like(x)
    rows, columns = _matrix(x, len(statistics))
    grid, tile = _tiles(rows, columns, len(statistics))
    _input_gradient[grid](
        dy, x, weight, statistics, sums, out, rows, columns, count, *tile, SUM=_triton_type(statistics)
    )
    return out


def sum_type(x: Tensor) -> torch.dtype:
    """Return the type of sums over x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _triton_type(sums: Tensor) -> tl.dtype:
    return tl.float64 if sums.dtype == torch.float64 else tl.float32


def _matrix(x: Tensor, views: int) -> tuple[int, int]:
    """Return the rows of a view and the columns of x as a matrix."""
    return x.numel() // x.shape[1] // views, x.shape[1]


def _tile(rows: int, columns: int) -> tuple[int, int]:
    wide = min(_MOST_COLUMNS, triton.next_power_of_2(columns))
    return min(_TILE // wide, triton.next_power_of_2(rows)), wide


def _tiles(rows: int, columns: int, views: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return the grid and the tile of an elementwise kernel."""
    tall, wide = _tile(rows, columns)
    return (triton.cdiv(rows, tall), triton.cdiv(columns, wide), views), (tall, wide)


def _chunks(rows: int, columns: int, views: int) -> tuple[tuple[int, int, int], int, tuple[int, int]]:
    """Return the grid, the rows of a chunk and the tile of a kernel that sums over rows."""
    tall, wide = _tile(rows, columns)
    across = triton.cdiv(columns, wide)
    wanted = max(1, _PROGRAMS // (across * views))
    chunk = tall * triton.cdiv(triton.cdiv(rows, wanted), tall)
    return (across, triton.cdiv(rows, chunk), views), chunk, (tall, wide)


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
    _combine[(triton.cdiv(columns, wide),)](
        parts,
        out,
        out if running_mean is None else running_mean,
        out if running_var is None else running_var,
        number,
        views,
        columns,
        chunk,
        rows,
        MOMENTUM=momentum,  # a constant, because numbers in arguments are rounded to float32
        EPS=eps,
        FINAL=running_mean is not None,
        PARTS=together,
        COLUMNS=wide,
        SUM=_triton_type(parts),
    )
