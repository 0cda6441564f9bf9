"""Starts the kernels of the sum of two normalized batches (`trainer.distributed.two_norms_kernels`)."""

import torch
from torch import Tensor

from trainer.distributed import two_norms_kernels as kernels
from trainer.distributed.batch_norm_operations import as_matrix, chunks, tiles, triton_type


def normalize_two(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    x2: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    statistics2: Tensor,
) -> Tensor:
    """Return the sum of two normalized batches, with 0 in place of negative results, in the type of x.

    Args:
        x: the first batch of V views, [V * B, C, …].
        weight: of each of its channels, [C].
        bias: of each of its channels, [C].
        statistics: what `combine_statistics` returned for it, [V, 2, C].
        x2: the second batch, in the shape and type of x.
        weight2: as `weight`.
        bias2: as `bias`.
        statistics2: as `statistics`.
    """
    out = torch.empty_like(x)
    rows, columns = as_matrix(x, len(statistics))
    grid, tile = tiles(rows, columns, len(statistics))
    kernels.normalize_two[grid](
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
        *tile,
        SUM=triton_type(statistics),
    )
    return out


def gradient_sums_of_two(
    dy: Tensor, dy2: Tensor | None, x: Tensor, x2: Tensor, y: Tensor, statistics: Tensor, statistics2: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient before ReLU, in the shape of x, and the sums of `gradient_sums` for both batches.

    The sums are [2, V, 2, C]. `residual_gradient_sums` says how two gradients are added.

    Args:
        dy: gradient of y, or the first part of it.
        dy2: the second part, which is added.
        x: the first batch.
        x2: the second batch.
        y: what `normalize_two` returned.
        statistics: of the first batch, [V, 2, C].
        statistics2: of the second batch, [V, 2, C].
    """
    masked = torch.empty_like(x)
    rows, columns = as_matrix(x, len(statistics))
    grid, chunk, tile = chunks(rows, columns, len(statistics))
    parts = statistics.new_empty((grid[1], 2, *statistics.shape))
    kernels.gradient_sums_of_two_of_chunks[grid](
        dy,
        dy if dy2 is None else dy2,
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
        dy2 is not None,
        *tile,
        SUM=triton_type(statistics),
    )
    return masked, parts.sum(0)


def input_gradients_of_two(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    statistics: Tensor,
    x2: Tensor,
    weight2: Tensor,
    statistics2: Tensor,
    sums: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both batches, [V * B, C, …] each.

    Args:
        dy: the gradient before ReLU.
        x: the first batch.
        weight: of each of its channels, [C].
        statistics: of it, [V, 2, C].
        x2: the second batch.
        weight2: as `weight`.
        statistics2: as `statistics`.
        sums: what `gradient_sums_of_two` returned, summed over the ranks, [2, V, 2, C].
        count: rows of a view on all ranks.
    """
    out, out2 = torch.empty_like(x), torch.empty_like(x2)
    rows, columns = as_matrix(x, len(statistics))
    grid, tile = tiles(rows, columns, len(statistics))
    kernels.input_gradients_of_two[grid](
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
        *tile,
        SUM=triton_type(statistics),
    )
    return out, out2
