"""Triton kernels of batch norm for V stacked views [V * B, C, …] in channels-last memory.

In memory such a batch is a matrix of V * R rows and C columns, with R = B * H * W rows of each view. Sums over rows
take two kernels and no atomic operations, so equal inputs give equal bits. They are in float32, or in float64 for
float64. `trainer.distributed.batch_norm_operations` starts the kernels.
"""
# mypy: allow-untyped-defs

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]


@triton.jit
def statistics_of_chunks(
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
def combine(
    parts,
    out,
    running_mean,
    running_var,
    number,
    views,
    columns,
    stride,
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
        place = parts + (part * stride + view * 2 * columns)[:, None] + column[None, :]
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
def normalize(
    x,
    weight,
    bias,
    statistics,
    residual,
    out,
    rows,
    columns,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """(x - mean) * invstd * weight + bias, plus a residual if RESIDUAL, and at least 0 if RELU."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    view = tl.program_id(2)
    inside = column < columns
    used = (row < rows)[:, None] & inside[None, :]
    known = statistics + view * 2 * columns + column
    mean = tl.load(known, mask=inside, other=0.0)
    invstd = tl.load(known + columns, mask=inside, other=0.0)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(SUM)
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    normal = (tl.load(x + place, mask=used, other=0.0).to(SUM) - mean[None, :]) * invstd[None, :]
    made = normal * scale[None, :] + offset[None, :]
    if RESIDUAL:
        made += tl.load(residual + place, mask=used, other=0.0).to(SUM)
    if RELU:
        made = tl.where(made < 0, 0.0, made)  # keeps NaN
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)


@triton.jit
def gradient_sums_of_chunks(
    dy,
    dy2,
    x,
    y,
    weight,
    bias,
    statistics,
    parts,
    masked,
    rows,
    chunk,
    columns,
    RELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    FORKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """Sums of dy and of dy times the normalized x over a chunk of rows: parts [chunks, V, 2, C].

    RELU: dy is that of the activation. Where the activation is 0, it does not count. The sign before the activation is
    computed again, which reads nothing more. RESIDUAL: the sign is that of the activation y instead, and `masked`
    receives the gradient of the residual. FORKED: the gradient of the activation is dy + dy2.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part, view = tl.program_id(1), tl.program_id(2)
    inside = column < columns
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    known = statistics + view * 2 * columns + column
    mean = tl.load(known, mask=inside, other=0.0)
    invstd = tl.load(known + columns, mask=inside, other=0.0)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(SUM)
    total = tl.zeros([COLUMNS], SUM)
    product = tl.zeros([COLUMNS], SUM)
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        used = (row < end)[:, None] & inside[None, :]
        place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
        gradient = tl.load(dy + place, mask=used, other=0.0)
        if FORKED:
            both = gradient.to(SUM) + tl.load(dy2 + place, mask=used, other=0.0).to(SUM)
            # `input_gradient` reads the rounded sum, so the sums over rows are those of the rounded sum too.
            gradient = both.to(masked.dtype.element_ty)
        normal = (tl.load(x + place, mask=used, other=0.0).to(SUM) - mean[None, :]) * invstd[None, :]
        if RELU:
            gradient = tl.where(normal * scale[None, :] + offset[None, :] > 0, gradient, 0.0)
        if RESIDUAL:
            gradient = tl.where(tl.load(y + place, mask=used, other=0.0) > 0, gradient, 0.0)
            tl.store(masked + place, gradient, mask=used)
        total += tl.sum(gradient.to(SUM), 0)
        product += tl.sum(tl.where(used, gradient.to(SUM) * normal, 0.0), 0)
    place = parts + (part * tl.num_programs(2) + view) * 2 * columns + column
    tl.store(place, total, mask=inside)
    tl.store(place + columns, product, mask=inside)


@triton.jit
def input_gradient(
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
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """weight * invstd * (dy - (sum of dy + normalized x * sum of dy times normalized x) / count), with sums over all
    ranks (Ioffe & Szegedy 2015, section 3). RELU: as in `gradient_sums_of_chunks`."""
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
    scale = tl.load(weight + column, mask=inside, other=0.0).to(SUM)
    place = (view.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    gradient = tl.load(dy + place, mask=used, other=0.0).to(SUM)
    normal = (tl.load(x + place, mask=used, other=0.0).to(SUM) - mean[None, :]) * invstd[None, :]
    if RELU:
        offset = tl.load(bias + column, mask=inside, other=0.0).to(SUM)
        gradient = tl.where(normal * scale[None, :] + offset[None, :] > 0, gradient, 0.0)
    made = (scale * invstd)[None, :] * (gradient - total[None, :] - normal * product[None, :])
    tl.store(out + place, made.to(out.dtype.element_ty), mask=used)
