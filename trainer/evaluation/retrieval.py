"""Image retrieval within one dataset: whether an image finds others of its class."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.distributed.collectives import all_reduce_sum
from trainer.evaluation.checks import labeled
from trainer.evaluation.features import OneBackbone, gather_features

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalResult:
    """How well images find others of their class, as fractions in [0, 1]."""

    map: float
    """Mean average precision: the mean over the queries of the average precision of the whole ranking."""
    recall: dict[int, float]
    """Fraction of the queries with an image of their class among the k nearest, by k."""
    queries: int
    """Number of images that have another image of their class. The other images are candidates, but not queries."""


@torch.no_grad()
def retrieval(
    features: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    num_classes: int,
    chunk: int = 256,
    advance: Callable[[], None] = lambda: None,
) -> RetrievalResult:
    """Rank all other images of the dataset by their cosine with each image.

    Average precision: Manning, Raghavan, Schütze, "Introduction to Information Retrieval" (2008), section 8.4. Recall
    at k: Oh Song et al. 2016 (arXiv 1511.06452), section 5. Every rank calls with its own part of the dataset and gets
    the result of the whole. A rank queries with its own images, and all features are sent to all ranks. Of images with
    exactly the same similarity, the earlier one is nearer. Samples with label -1 are skipped.

    Args:
        features: `[n, F]`, not necessarily normalized.
        labels: `[n]` integers below `num_classes`.
        ids: `[n]` rows of the dataset's index in increasing order, disjoint between ranks. They define the order
            of images.
        num_classes: number of classes.
        chunk: queries whose similarities `[chunk, N]` exist at once.
        advance: called after each chunk, for a progress bar.

    Raises:
        UserError: on all ranks: shapes or labels do not match, features are not finite, or no class has two images.
    """
    given = labels
    features, labels = labeled(features, given, num_classes, "validation")
    ids = ids.to(features.device)[given.to(features.device) >= 0]
    queries = F.normalize(features, dim=1)  # [n, F]
    bank, bank_labels, bank_ids = gather_features(OneBackbone(queries, labels, ids))  # [N, F], [N], [N]
    own = torch.searchsorted(bank_ids, ids)  # [n] places in the bank
    if int(torch.bincount(bank_labels).max()) < 2:
        raise UserError(
            "no class has two images, so no image has another one to find",
            where="--retrieval",
            fix="give a larger labeled dataset with --validation",
        )
    sums = torch.zeros(
        2 + len(RECALL_AT), dtype=torch.float64
    )  # queries, average precision, found within k …
    for rows, wanted, places in zip(queries.split(chunk), labels.split(chunk), own.split(chunk), strict=True):
        similarity = rows @ bank.T  # [c, N]
        similarity.scatter_(1, places[:, None], -torch.inf)
        ranking = similarity.argsort(dim=1, descending=True, stable=True)[:, :-1]  # the query itself is last
        relevant = bank_labels[ranking] == wanted[:, None]  # [c, N - 1]
        sums += _sums(relevant[relevant.any(1)]).cpu()
        advance()
    count, precision, *found = all_reduce_sum(sums).tolist()
    recall = {k: hits / count for k, hits in zip(RECALL_AT, found, strict=True)}
    return RetrievalResult(precision / count, recall, int(count))


def _sums(relevant: Tensor) -> Tensor:
    """Return queries, their average precisions and their hits within each k, summed over boolean rankings `[c, N -
    1]`."""
    hits = relevant.cumsum(1)  # [c, N - 1]
    places = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    precision = (hits.double() / places * relevant).sum(1) / relevant.sum(1)  # [c]
    within = [(hits[:, : min(k, hits.shape[1])][:, -1] > 0).sum() for k in RECALL_AT]
    return torch.stack([torch.tensor(len(relevant)).to(precision), precision.sum(), *within]).double()
