"""Triton kernels of the sum of two batches, each normalized by a batch norm of its own.

A residual block that changes the number of channels ends in relu(norm(x) + norm2(x2)). Memory and sums are laid out as
in `trainer.distributed.batch_norm_kernels`. `trainer.distributed.two_norms_operations` starts the kernels.
"""
# mypy: allow-untyped-defs

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit
def normalized(x, place, used, statistics, columns, column, SUM: tl.constexpr):
    """Return (x - mean) * invstd of a tile, and invstd of its columns."""
    inside = column < columns
    mean = tl.load(statistics + column, mask=inside, other=0.0)
    invstd = tl.load(statistics + columns + column, mask=inside, other=0.0)
    return (tl.load(x + place, mask=used, other=0.0).to(SUM) - mean[None, :]) * invstd[None, :], invstd


@triton.jit
def scaled(x, place, used, weight, bias, statistics, columns, column, SUM: tl.constexpr):
    """Return (x - mean) * invstd * weight + bias of a tile."""
    inside = column < columns
    scale = tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(SUM)
    normal, _ = normalized(x, place, used, statistics, columns, column, SUM)
    return normal * scale[None, :] + offset[None, :]


@triton.jit
def normalize_two(
    x,
    weight,
    bias,
    statistics,
    x2,
    weight2,
    bias2,
    statistics2,
    out,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """The sum of both normalized batches, and at least 0."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    view = tl.program_id(2)
    used = (row < rows)[:, None] & (column < columns)[None, :]
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    known = view * 2 * columns
    made = scaled(x, place, used, weight, bias, statistics + known, columns, column, SUM)
    made += scaled(x2, place, used, weight2, bias2, statistics2 + known, columns, column, SUM)
    made = tl.where(made < 0, 0.0, made)  # keeps NaN
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)


@triton.jit
def gradient_sums_of_two_of_chunks(
    dy,
    dy2,
    x,
    x2,
    y,
    statistics,
    statistics2,
    parts,
    masked,
    rows,
    chunk,
    columns,
    FORKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """For both batches, what `gradient_sums_of_chunks` computes if there is a residual: parts [chunks, 2, V, 2, C]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part, view = tl.program_id(1), tl.program_id(2)
    inside = column < columns
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    known = view * 2 * columns
    total = tl.zeros([COLUMNS], SUM)
    product = tl.zeros([COLUMNS], SUM)
    product2 = tl.zeros([COLUMNS], SUM)
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        used = (row < end)[:, None] & inside[None, :]
        place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
        gradient = tl.load(dy + place, mask=used, other=0.0)
        if FORKED:
            both = gradient.to(SUM) + tl.load(dy2 + place, mask=used, other=0.0).to(SUM)
            # The sums over rows are those of what `input_gradients_of_two` reads.
            gradient = both.to(masked.dtype.element_ty)
        gradient = tl.where(tl.load(y + place, mask=used, other=0.0) > 0, gradient, 0.0)
        tl.store(masked + place, gradient, mask=used)
        normal, _ = normalized(x, place, used, statistics + known, columns, column, SUM)
        normal2, _ = normalized(x2, place, used, statistics2 + known, columns, column, SUM)
        total += tl.sum(gradient.to(SUM), 0)
        product += tl.sum(tl.where(used, gradient.to(SUM) * normal, 0.0), 0)
        product2 += tl.sum(tl.where(used, gradient.to(SUM) * normal2, 0.0), 0)
    views = tl.num_programs(2)
    place = parts + (part * 2 * views + view) * 2 * columns + column
    tl.store(place, total, mask=inside)
    tl.store(place + columns, product, mask=inside)
    place += views * 2 * columns
    tl.store(place, total, mask=inside)
    tl.store(place + columns, product2, mask=inside)


@triton.jit
def gradient_of_tile(
    gradient, x, place, used, weight, statistics, sums, count, columns, column, SUM: tl.constexpr
):
    """Return what `input_gradient` computes, for a tile."""
    inside = column < columns
    total = tl.load(sums + column, mask=inside, other=0.0) / count
    product = tl.load(sums + columns + column, mask=inside, other=0.0) / count
    scale = tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    normal, invstd = normalized(x, place, used, statistics, columns, column, SUM)
    return (scale * invstd)[None, :] * (gradient - total[None, :] - normal * product[None, :])


@triton.jit
def input_gradients_of_two(
    dy,
    x,
    weight,
    statistics,
    x2,
    weight2,
    statistics2,
    sums,
    out,
    out2,
    rows,
    columns,
    count,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """The gradients of both batches from the same dy and the sums [2, V, 2, C] over all ranks."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    view = tl.program_id(2)
    used = (row < rows)[:, None] & (column < columns)[None, :]
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    known = view * 2 * columns
    sums2 = sums + tl.num_programs(2) * 2 * columns
    gradient = tl.load(dy + place, mask=used, other=0.0).to(SUM)
    made = gradient_of_tile(
        gradient, x, place, used, weight, statistics + known, sums + known, count, columns, column, SUM
    )
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)
    made = gradient_of_tile(
        gradient, x2, place, used, weight2, statistics2 + known, sums2 + known, count, columns, column, SUM
    )
    tl.store(out2 + place, made.to(out2.dtype.element_ty), mask=used)
