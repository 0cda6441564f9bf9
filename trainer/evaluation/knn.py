"""Weighted nearest-neighbor classification of frozen features that are distributed over the ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.distributed.collectives import all_reduce_sum, gather, rank, world_size
from trainer.evaluation.checks import labeled, require_same_width
from trainer.evaluation.features import EvaluationInterrupted


@dataclass(frozen=True)
class KNNResult:
    """Accuracies as fractions of the labeled test samples, in [0, 1]."""

    top1: float
    top5: float


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int,
    chunk: int = 256,
    stop: Callable[[], int] = lambda: 0,
) -> KNNResult:
    """Return `knn_accuracies` for one number of neighbors."""
    sets = train_features, train_labels, test_features, test_labels
    return knn_accuracies(
        *sets, ks=[k], temperature=temperature, num_classes=num_classes, chunk=chunk, stop=stop
    )[k]


@torch.no_grad()
def knn_accuracies(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
    chunk: int = 256,
    stop: Callable[[], int] = lambda: 0,
) -> dict[int, KNNResult]:
    """Classify by a vote of the k most similar training samples (Wu et al. 2018, arXiv 1805.01978, section 3.4).

    Similarity s is the cosine. A neighbor votes for its class with weight exp(s / temperature). Samples with label -1
    are unlabeled and are skipped in both datasets. If there are fewer than k training samples, all of them vote.

    Every rank calls with its own part of both datasets, of any size, and gets the result of the whole. It equals the
    result of one process with all samples, up to the rounding of the similarities. Training features never leave their
    rank. Test features are sent to all ranks one chunk at a time, and the neighbors found there are sent back.

    Ties: of training samples with exactly the same similarity, those of the lower class are nearer. Of classes with
    equal votes, the lower class comes first. A class without any neighbor is never among the five.

    Args:
        train_features: `[N, F]`, not necessarily normalized. Half precision is computed in float32.
        train_labels: `[N]` integers below `num_classes`.
        test_features: `[M, F]`.
        test_labels: `[M]`.
        ks: numbers of neighbors that vote. All are evaluated with one search.
        temperature: temperature of the votes. The smaller it is, the more the nearest neighbors count.
        num_classes: number of classes.
        chunk: test samples of all ranks that are compared at once, at least one of each rank. Memory is one copy of the
            training features, and grows with `chunk x N`.
        stop: polled after each chunk by all ranks together. Any value other than 0 raises `EvaluationInterrupted`.

    Returns:
        The result of each k.

    Raises:
        UserError: on all ranks: shapes or labels do not match, features are not finite, or one dataset has no label.
        EvaluationInterrupted: on all ranks, if `stop` returns a value other than 0.
    """
    train_features, train_labels = labeled(train_features, train_labels, num_classes, "training")
    test_features, test_labels = labeled(test_features, test_labels, num_classes, "test")
    require_same_width(train_features, test_features)
    most = min(max(ks), int(all_reduce_sum(torch.tensor(len(train_features)))))
    bank = F.normalize(train_features, dim=1)  # [n, F]
    counts = torch.zeros(len(ks), 2, dtype=torch.int64)  # correct in top-1, correct in top-5
    for features, labels in _chunks(test_features, test_labels, -(-chunk // world_size())):
        queries = F.normalize(features, dim=1).to(bank.device)
        similarity, neighbors = _nearest(queries, bank, train_labels, most)
        # The CPU adds votes in a fixed order. Elsewhere, classes with equal votes could come out unequal.
        similarity, neighbors, labels = similarity.cpu(), neighbors.cpu(), labels.cpu()
        for row, k in enumerate(ks):
            counts[row] += _right(similarity[:, :k], neighbors[:, :k], labels, temperature, num_classes)
        if code := stop():
            raise EvaluationInterrupted(code)
    tested = int(all_reduce_sum(torch.tensor(len(test_labels))))
    right = all_reduce_sum(counts).tolist()
    return {k: KNNResult(top1 / tested, top5 / tested) for k, (top1, top5) in zip(ks, right, strict=True)}


def _chunks(features: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same number of chunks of `size` rows on every rank, padded with zeros that have label -1."""
    most = int(gather(torch.tensor([len(features)])).max())
    for start in range(0, most, size):
        rows, wanted = features[start : start + size], labels[start : start + size]
        missing = size - len(rows)
        yield F.pad(rows, (0, 0, 0, missing)), F.pad(wanted, (0, missing), value=-1)


def _nearest(queries: Tensor, bank: Tensor, bank_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarity and label `[c, k]` of the k nearest samples on all ranks for this rank's queries `[c, F]`."""
    similarity, labels = (
        gather(found).view(world_size(), world_size(), len(queries), k)[:, rank()].transpose(0, 1).flatten(1)
        for found in nearest_here(gather(queries), bank, bank_labels, k)
    )  # [c, world * k]
    by_label = labels.argsort(dim=1, stable=True)
    similarity, labels = similarity.take_along_dim(by_label, 1), labels.take_along_dim(by_label, 1)
    nearest = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.take_along_dim(nearest, 1), labels.take_along_dim(nearest, 1)


def nearest_here(queries: Tensor, bank: Tensor, bank_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarity and label `[q, k]` of the k samples of this rank's bank `[n, F]` nearest to queries `[q, F]`.

    If the bank has fewer samples, the rest have similarity -inf.
    """
    similarity = queries @ bank.T  # [q, n]
    if len(bank) <= k:
        padding = (0, k - len(bank))
        labels = bank_labels.expand(len(queries), -1)
        return F.pad(similarity, padding, value=-torch.inf), F.pad(labels, padding)
    best, index = similarity.topk(k + 1, dim=1)
    labels = bank_labels[index[:, :k]]
    # `topk` picks an arbitrary sample among those tied at position k
    for row in (best[:, k - 1] == best[:, k]).nonzero()[:, 0].tolist():
        above = int((best[row] > best[row, k]).sum())
        equal = bank_labels[similarity[row] == best[row, k]]
        labels[row, above:] = equal.topk(k - above, largest=False).values
    return best[:, :k], labels


def _right(
    similarity: Tensor, neighbors: Tensor, labels: Tensor, temperature: float, num_classes: int
) -> Tensor:
    """Count the correct samples of labels `[c]` in top-1 and top-5 `[2]`, from neighbors `[c, k]`."""
    # Votes are relative to the best neighbor's and in float64, because exp(1 / temperature) overflows below 0.012.
    weights = ((similarity - similarity[:, :1]).double() / temperature).exp()
    votes = weights.new_zeros(len(labels), num_classes).scatter_add_(1, neighbors, weights)
    present = torch.zeros_like(votes, dtype=torch.bool).scatter_(1, neighbors, True)
    votes.masked_fill_(~present, -1)  # votes of a distant neighbor may also be 0
    own = votes.gather(1, labels.clamp(min=0)[:, None])  # [c, 1]
    below = torch.arange(num_classes) < labels[:, None]
    place = ((votes > own) | ((votes == own) & below)).sum(1)
    voted = (own[:, 0] >= 0) & (labels >= 0)
    return torch.stack([(voted & (place < 1)).sum(), (voted & (place < 5)).sum()])
