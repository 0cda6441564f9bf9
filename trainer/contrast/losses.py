"""The losses of the methods, each over the global batch and in full precision.

Shapes: B is the number of rows on this rank, D the embedding size. Sources: All4One (Estepa et al., ICCV 2023),
InfoNCE (van den Oord et al. 2018), SimCLR (Chen et al., ICML 2020), BYOL (Grill et al., NeurIPS 2020), Barlow Twins
(Zbontar et al., ICML 2021), SimSiam (Chen, He, CVPR 2021), VICReg (Bardes, Ponce, LeCun, ICLR 2022), MSF
(Koohpayegani, Tejankar, Pirsiavash, ICCV 2021), LeJEPA (Balestriero, LeCun 2025).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.distributed.collectives import (
    all_reduce_sum,
    gather,
    rank,
    sum_for_equal_losses,
    world_size,
)

Scope = Literal["rank", "global"]
P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Run a loss outside autocast in at least float32, because bf16 logits lose more accuracy than they save time."""

    @wraps(loss)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(_device(args), enabled=False):
            return loss(*(_widen(a) for a in args), **kwargs)  # type: ignore[arg-type]

    return run


def _widen(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return [_widen(v) for v in value] if isinstance(value, list | tuple) else value


def _device(args: Sequence[object]) -> str:
    first = args[0]
    while isinstance(first, list | tuple):
        first = first[0]
    return first.device.type if isinstance(first, Tensor) else "cpu"


@full_precision
def gather_keys(keys: Sequence[Tensor]) -> list[Tensor]:
    """Normalize several tensors of keys [B, D] and gather them from all ranks: [world * B, D] each, for `info_nce`.

    One message carries all of them, and one message carries their gradients back.
    """
    normalized = torch.cat([F.normalize(k, dim=1) for k in keys], dim=1)  # [B, sum of D]
    return list(gather(normalized).split([k.shape[1] for k in keys], dim=1))


@full_precision
def info_nce(queries: Tensor, keys: Tensor, *, temperature: float) -> Tensor:
    """Compute InfoNCE: the positive of each row is its own key among the keys of all ranks, and the others are
    negatives.

    Args:
        queries: [B, D], normalized here.
        keys: [world * B, D] from `gather_keys`.
        temperature: divisor of the cosines.

    Returns a scalar, the mean over this rank's rows.
    """
    queries = F.normalize(queries, dim=1)
    logits = queries @ keys.T / temperature  # [B, world * B]
    own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    return F.cross_entropy(logits, own)


class Contrast(NamedTuple):
    """Targets and predictions [B, D], and the pairs of their indices to contrast."""

    targets: Sequence[Tensor]
    predictions: Sequence[Tensor]
    pairs: Sequence[tuple[int, int]]
    temperature: float


def info_nce_all(contrasts: Mapping[str, Contrast]) -> dict[str, Tensor]:
    """Compute InfoNCE of each contrast as the mean over its pairs. One message carries the predictions of all ranks."""
    gathered = iter(gather_keys([p for c in contrasts.values() for p in c.predictions]))
    losses = {}
    for name, c in contrasts.items():
        keys = [next(gathered) for _ in c.predictions]
        pairs = [info_nce(c.targets[i], keys[j], temperature=c.temperature) for i, j in c.pairs]
        losses[name] = torch.stack(pairs).mean()
    return losses


@full_precision
def nt_xent(z: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Compute SimCLR's equation 1: each embedding against its image's other view among both views on all ranks.

    Args:
        z: embeddings of two views, [B, D] each, normalized here.
        temperature: divisor of the cosines.

    Returns a scalar, the mean over this rank's 2B embeddings.
    """
    everyone = torch.cat(gather_keys(z))  # [2 * world * B, D], first views before second ones
    queries = torch.cat([F.normalize(v, dim=1) for v in z])  # [2B, D]
    first = torch.arange(len(z[0]), device=queries.device) + rank() * len(z[0])
    second = first + len(everyone) // 2
    logits = queries @ everyone.T / temperature  # [2B, 2 * world * B]
    logits = logits.scatter(1, torch.cat([first, second])[:, None], -torch.inf)
    return F.cross_entropy(logits, torch.cat([second, first]))


@full_precision
def normalized_squared_error(targets: Tensor, predicted: Tensor) -> Tensor:
    """Compute the squared distance of normalized rows [B, D], which is 2 - 2 cos, as a mean (BYOL, equation 2)."""
    return (F.normalize(predicted, dim=1) - F.normalize(targets, dim=1)).square().sum(1).mean()


@full_precision
def negative_cosine(targets: Tensor, predicted: Tensor) -> Tensor:
    """Compute the negative cosine of rows [B, D] as a mean (SimSiam, equation 1). Targets take no gradient."""
    return -(F.normalize(predicted, dim=1) * F.normalize(targets.detach(), dim=1)).sum(1).mean()


@full_precision
def mean_shift(predicted: Tensor, neighbors: Tensor) -> Tensor:
    """Compute the squared distance of predictions to their neighbors, which is 2 - 2 cos, as a mean (MSF).

    Args:
        predicted: [B, D], normalized here.
        neighbors: the k neighbors of each row's target, [B, k, D], normalized, without a gradient.

    Returns a scalar, the mean over this rank's rows and their neighbors.
    """
    # The cosine is linear in the neighbor, so that the mean of the neighbors gives the mean of the distances.
    return 2 - 2 * (F.normalize(predicted, dim=1) * neighbors.mean(1)).sum(1).mean()


def symmetric(
    loss: Callable[[Tensor, Tensor], Tensor], left: Sequence[Tensor], right: Sequence[Tensor]
) -> Tensor:
    """Mean of `loss(left[i], right[j])` over the ordered pairs of different views."""
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if i != j]
    return torch.stack([loss(left[i], right[j]) for i, j in pairs]).mean()


def _correlation(a: Tensor, b: Tensor, scope: Scope, added: float = 0.0) -> Tensor:
    """Return the cosine of every column of a with every column of b [B, D] over the batch: [D, D].

    `added` is added to the squared norms of the columns.
    """
    squares = torch.stack([a.square().sum(0), b.square().sum(0)])  # [2, D]
    if scope == "global":
        squares = all_reduce_sum(squares)
    norms = (squares + added if added else squares).sqrt().clamp_min(1e-12)
    cosines = (a / norms[0]).T @ (b / norms[1])
    return sum_for_equal_losses(cosines) if scope == "global" else cosines


def _root_mean_square(errors: Sequence[Tensor]) -> Tensor:
    """Return the root mean square of several tensors. Its gradient is 0, not NaN, if all values are 0."""
    mean = torch.stack([e.square().mean() for e in errors]).mean()
    return torch.where(mean > 0, mean.clamp_min(torch.finfo(mean.dtype).tiny).sqrt(), mean)


def _off_diagonal(matrix: Tensor) -> Tensor:
    size = len(matrix)
    return matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:]


@full_precision
def feature_contrast(keys: Sequence[Tensor], z: Sequence[Tensor], *, scope: Scope = "rank") -> Tensor:
    """Contrast along the feature axis (All4One section 3.4): pull D x D correlations toward the identity.

    Args:
        keys: momentum embeddings of views, [B, D] each.
        z: for each of them, the online embedding of the image's other view, [B, D].
        scope: `rank` correlates this rank's rows (as in the published code), `global` the rows of all ranks.
    """
    correlations = [_correlation(k, v, scope) for k, v in zip(keys, z, strict=True)]
    on = _root_mean_square([c.diagonal() - 1 for c in correlations])
    off = _root_mean_square([_off_diagonal(c) for c in correlations])
    return 10 * (0.5 * on + 0.5 * off)


@full_precision
def barlow_twins(z1: Tensor, z2: Tensor, *, redundancy: float, variance_epsilon: float = 0.0) -> Tensor:
    """Compute equation 1 of Barlow Twins over the global batch: invariance plus `redundancy` (λ) times off-diagonals.

    z1, z2: embeddings [B, D], with the same B on every rank. Every column is centered and divided by its standard
    deviation over all ranks' rows. `variance_epsilon` is added to its variance before, as a batch norm does.
    """
    rows = len(z1) * world_size()
    sums = all_reduce_sum(torch.stack([z1.sum(0), z2.sum(0)])) / rows  # [2, D]
    z1, z2 = z1 - sums[0], z2 - sums[1]
    correlation = _correlation(z1, z2, "global", rows * variance_epsilon)
    on = (correlation.diagonal() - 1).square().sum()
    return on + redundancy * _off_diagonal(correlation).square().sum()


@full_precision
def vicreg(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """Compute VICReg's three terms over the global batch, without their weights (its section 4.1 and algorithm 1).

    `invariance` is the squared difference, averaged over rows and features as in algorithm 1. Equation 5 sums over the
    features, but the published weights belong to the mean. `variance` and `covariance` are sums over both views.

    z1, z2: embeddings [B, D], with the same B on every rank.
    """
    rows, size = len(z1) * world_size(), z1.shape[1]
    z = torch.stack([z1, z2])  # [2, B, D]
    centerd = z - all_reduce_sum(z.sum(1, keepdim=True)) / rows
    covariances = sum_for_equal_losses(centerd.mT @ centerd) / (rows - 1)  # [2, D, D]
    deviations = (covariances.diagonal(dim1=1, dim2=2) + 1e-4).sqrt()  # [2, D]
    return {
        "invariance": F.mse_loss(z1, z2),
        "variance": F.relu(1 - deviations).sum() / size,
        "covariance": torch.stack([_off_diagonal(c).square().sum() for c in covariances]).sum() / size,
    }


@full_precision
def distance_to_center(z: Sequence[Tensor], *, global_views: int) -> Tensor:
    """Compute the squared distance of all views to the mean of the first `global_views` (LeJEPA, algorithm 2).

    It is averaged over views, rows and features as in the algorithm. The paper's equation sums over the features.

    z: embeddings of V views, [B, D] each. The mean takes a gradient too.
    """
    views = torch.stack(list(z))  # [V, B, D]
    return (views[:global_views].mean(0) - views).square().mean()


@full_precision
def sigreg(z: Sequence[Tensor], directions: Tensor, *, points: int, limit: float) -> Tensor:
    """Compute SIGReg over the global batch (LeJEPA, algorithm 1): how far projections are from a standard normal.

    The Epps-Pulley statistic of N numbers x is `N ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt`. φ is their characteristic
    function, the mean of `exp(itx)`. The last factor is the algorithm's. The text of section 4.2.3 has `exp(-t²)`.

    Args:
        z: embeddings of V views, [B, D] each, with the same B on every rank.
        directions: unit vectors in columns, [D, M], the same on every rank.
        points: number of equidistant points of the trapezoidal rule from -limit to limit. It is odd.
        limit: bound of the integral.

    Returns a scalar, the mean of the statistic over views and directions.
    """
    rows, step = len(z[0]) * world_size(), 2 * limit / (points - 1)
    views = torch.stack(list(z))  # [V, B, D]
    # The integrand is even, and 0 at t = 0. The positive half of the points is enough, T = (points - 1) / 2.
    t = step * torch.arange(1, points // 2 + 1, dtype=views.dtype, device=views.device)  # [T]
    normal = (-t.square() / 2).exp()
    weights = 2 * step * normal
    weights[-1] /= 2
    angles = (views @ directions)[..., None] * t  # [V, B, M, T]
    sums = torch.stack([angles.cos().sum(1), angles.sin().sum(1)])  # [2, V, M, T]
    real, imaginary = sum_for_equal_losses(sums) / rows
    errors = (real - normal).square() + imaginary.square()  # [V, M, T]
    return rows * (errors @ weights).mean()
