"""Signs of how a run does beyond its loss: whether embeddings collapse, what neighbors are like, which loss pulls.

All of a value's inputs are this rank's rows. They are computed every `metrics.health_every` steps, the spread at each.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.contrast.queue import NeighborQueue, Neighbors

LEAST_SPREAD = 0.05
"""Share of the standard deviation of a filled sphere below which embeddings count as collapsed to a point."""
LEAST_RANK = 0.02
"""Share of the largest rank that is possible below which embeddings count as collapsed to few directions."""
LEAST_GAIN = 0.02
"""Share of the way from chance to certainty below which neighbors count as unrelated, at most a fifth of chance."""


@torch.no_grad()
def feature_std(rows: Tensor) -> Tensor:
    """Standard deviation over the batch of normalized rows [B, D], mean over features: [].

    It is 0 when the rows have collapsed to a point, and 1 / sqrt(D) when they fill the sphere.
    """
    return F.normalize(_wide(rows), dim=1).std(dim=0).mean()


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    """Exponential of the entropy of the normalized singular values of rows [B, D], between 1 and min(B, D): [].

    Roy and Vetterli, EUSIPCO 2007; as a sign of collapse RankMe (Garrido et al., ICML 2023). NaN where rows are not
    finite.
    """
    rows = _wide(rows)
    values = torch.linalg.svdvals(rows.nan_to_num(0, 0, 0))  # which fails on others
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return torch.where(rows.isfinite().all(), rank, torch.nan)


def gradient_shares(terms: Mapping[str, Tensor], z: Sequence[Tensor]) -> dict[str, Tensor]:
    """Norm of each term's gradient with respect to the embeddings (V x [B, D]), as shares of their sum.

    Args:
        terms: weighted terms of the loss, with their graph, which stays.
        z: what the terms depend on.
    """
    norms = {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, z, retain_graph=True, allow_unused=True)
        norms[name] = torch.stack([_wide(g).square().sum() for g in found if g is not None]).sum().sqrt()
    total = torch.stack(list(norms.values())).sum().clamp_min(1e-30)
    return {name: norm / total for name, norm in norms.items()}


@torch.no_grad()
def neighbor_values(queue: NeighborQueue, keys: Tensor, found: Neighbors, batch: int) -> dict[str, Tensor]:
    """Share of the queue that samples have filled; of the nearest neighbors the mean cosine with their keys, and the
    mean age in batches of those that are samples.

    Args:
        queue: what they were found in.
        keys: normalized, [B, D].
        found: their neighbors.
        batch: keys that enter the queue at once.
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
    """What the values of a step say of a collapse, in words, by the value that says it.

    Args:
        values: health values, means over the ranks.
        size: of the embedding, D.
        rows: of a rank's batch, B.
        classes: of the labels; 0 where there are none.
    """
    signs = {}
    if values["z_std"] < LEAST_SPREAD / size**0.5:
        signs["z_std"] = (
            f"the embeddings have nearly collapsed to a point: their standard deviation is {values['z_std']:.2g}, "
            f"where {size**-0.5:.2g} fills the sphere"
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
            f"neighbors are as good as random: {100 * values['neighbor_agreement']:.1f} % of them have the label of "
            f"their image, where {100 * chance:.1f} % is chance"
        )
    return signs


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
