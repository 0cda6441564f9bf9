"""The loss of INTL: views agree after an iterative whitening, and a trace loss completes the whitening.

Shapes: B is the number of rows on this rank, N that on all ranks, D the embedding size. Sources: INTL (Weng et al.,
ICLR 2024) and iterative normalization (Huang et al., CVPR 2019).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.losses import full_precision
from trainer.distributed.collectives import gather


@full_precision
def intl(z: Sequence[Tensor], *, iterations: int) -> dict[str, Tensor]:
    """Compute INTL's two terms over the global batch, without their weight.

    `invariance` is 2 - 2 cos of each further view and the first one, after the whitening. `trace` is the sum of the
    trace losses of both views. Both are means over the further views, and every rank computes the same values.

    Args:
        z: embeddings of V views, [B, D] each, with the same B on every rank.
        iterations: number of Newton iterations of the whitening, T.
    """
    # One message carries all views, and one carries their gradients back.
    everyone = gather(torch.cat(list(z), dim=1)).chunk(len(z), dim=1)  # V x [N, D]
    whitened = [whiten_iteratively(rows, iterations=iterations) for rows in everyone]
    first, *others = (F.normalize(rows, dim=1) for rows in whitened)
    cosines = torch.stack([(first * other).sum(1).mean() for other in others])
    traces = torch.stack([trace_loss(rows) for rows in whitened])
    return {"invariance": 2 - 2 * cosines.mean(), "trace": traces[0] + traces[1:].mean()}


def whiten_iteratively(x: Tensor, *, iterations: int) -> Tensor:
    """Make the rows of x [N, D] less correlated, by Newton's iterations toward the inverse root of their covariance.

    Each row is centered over its D features. The covariance of the rows is [N, N]. The authors call this channel
    whitening. Few iterations enlarge small eigenvalues, but not up to 1.

    Returns the same shape.
    """
    centered = x - x.mean(1, keepdim=True)
    covariance = centered @ centered.T / (x.shape[1] - 1)  # [N, N]
    trace = covariance.diagonal().sum()
    left = covariance / trace  # Its eigenvalues are at most 1, so that the iterations converge.
    root = identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    # The paper iterates P <- (3 P - P^3 S) / 2, where each iteration multiplies rounding errors. With L = P S beside P
    # they stay small, at the same cost.
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * (root @ left)
        left, root = left @ step, step @ root
    return root @ centered / trace.sqrt()


def trace_loss(x: Tensor) -> Tensor:
    """Compute the squared distance from 1 of the variance of each row of x [N, D], as a sum over the rows."""
    return (x.var(1, correction=1) - 1).square().sum()
