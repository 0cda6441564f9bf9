"""Diagnostics beyond the loss: collapse of embeddings, quality of neighbors, and gradient fractions of the losses.

All inputs are this rank's rows. The standard deviation is computed at every step, and all other values every
`metrics.health_every` steps.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.queue import NeighborQueue, Neighbors

LEAST_SPREAD = 0.05
"""Fraction of the standard deviation of a filled sphere below which embeddings count as collapsed to a point."""
LEAST_RANK = 0.02
"""Fraction of the maximum possible rank below which embeddings count as collapsed to few directions."""
LEAST_GAIN = 0.02
"""Fraction of the way from chance to certainty below which neighbors count as unrelated, at most a fifth of chance."""
COLLAPSES = ("z_std", "z_rank")
"""Signs that the embeddings have collapsed. The other sign, random neighbors, may have other reasons."""


@torch.no_grad()
def feature_std(rows: Tensor) -> Tensor:
    """Return the standard deviation over the batch of normalized rows [B, D], averaged over features: [].

    It is 0 if the rows have collapsed to a point, and 1 / sqrt(D) if they fill the sphere.
    """
    return F.normalize(_wide(rows), dim=1).std(dim=0).mean()


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    """Return the effective rank of rows [B, D], between 1 and min(B, D): [].

    It is the exponential of the entropy of the normalized singular values (Roy and Vetterli, EUSIPCO 2007). RankMe uses
    it as a sign of collapse (Garrido et al., ICML 2023). It is NaN if rows are not finite.
    """
    rows = _wide(rows)
    values = torch.linalg.svdvals(rows.nan_to_num(0, 0, 0))  # svdvals fails on values that are not finite
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return torch.where(rows.isfinite().all(), rank, torch.nan)


def gradient_shares(terms: Mapping[str, Tensor], z: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the gradient norm of each term with respect to the embeddings (V x [B, D]), as a fraction of their sum.

    Args:
        terms: weighted terms of the loss, with their graph, which is kept.
        z: the embeddings.
    """
    norms = {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, z, retain_graph=True, allow_unused=True)
        norms[name] = torch.stack([_wide(g).square().sum() for g in found if g is not None]).sum().sqrt()
    total = torch.stack(list(norms.values())).sum().clamp_min(1e-30)
    return {name: norm / total for name, norm in norms.items()}


@torch.no_grad()
def neighbor_values(queue: NeighborQueue, keys: Tensor, found: Neighbors, batch: int) -> dict[str, Tensor]:
    """Return how full the queue is, and the mean cosine and mean age of the nearest neighbors.

    The first value is the fraction of the queue filled with samples. The age is counted in batches, over neighbors that
    are samples.

    Args:
        queue: the queue in which they were found.
        keys: normalized, [B, D].
        found: their neighbors.
        batch: number of keys that enter the queue at once.
    """
    indices = found.indices[:, 0]
    age = (queue.head - 1 - indices).remainder(len(queue.rows)) // batch + 1  # [B]
    real = queue.ids[indices] >= 0
    return {
        "queue_filled": (queue.ids >= 0).float().mean(),
        "neighbor_cosine": (keys * found.rows[:, 0]).sum(1).mean(),
        "neighbor_age": (age * real).sum() / real.sum().clamp_min(1),
    }


def collapse_signs(values: Mapping[str, float], *, size: int, rows: int, classes: int) -> dict[str, str]:
    """Return warnings about a collapse of the embeddings, by the name of the value that shows it.

    Args:
        values: diagnostics, as means over the ranks.
        size: embedding size, D.
        rows: batch size of a rank, B.
        classes: number of label classes. 0: there are no labels.
    """
    signs = {}
    if values["z_std"] < LEAST_SPREAD / size**0.5:
        signs["z_std"] = (
            f"the embeddings have nearly collapsed to a point: their standard deviation is {values['z_std']:.2g}, "
            f"but embeddings that fill the sphere have {size**-0.5:.2g}"
        )
    most = min(size, rows)
    if values["z_rank"] < max(1.5, LEAST_RANK * most):
        signs["z_rank"] = (
            f"the embeddings have nearly collapsed to few directions: their effective rank is {values['z_rank']:.1f} "
            f"of at most {most}"
        )
    chance = 1 / max(classes, 1)
    least = chance + min(0.2 * chance, LEAST_GAIN * (1 - chance))
    if classes > 1 and values.get("queue_filled") == 1 and values["neighbor_agreement"] < least:
        signs["neighbor_agreement"] = (
            f"neighbors are nearly random: {100 * values['neighbor_agreement']:.1f} % of them have the label of "
            f"their image, and chance is {100 * chance:.1f} %"
        )
    return signs


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
