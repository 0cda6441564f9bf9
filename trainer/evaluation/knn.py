"""Weighted nearest-neighbour classification of frozen features, of which every rank holds a share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.evaluation.features import Stopped
from trainer.parallel import all_sum, gather, rank, world_size


@dataclass(frozen=True)
class KNNResult:
    """Accuracies as shares of the labelled test samples, in [0, 1]."""

    top1: float
    top5: float


@torch.no_grad()
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
    """Let the k most similar training samples vote (Wu et al. 2018, arXiv 1805.01978, section 3.4).

    Similarity s is the cosine; a neighbour votes for its class with weight exp(s / temperature). Samples with
    label -1 have no label and are left out of both sets. With fewer than k training samples all of them vote.

    Every rank calls with its own share of both sets, however large, and gets the result of the whole: that of one
    process with all samples, up to the rounding of the similarities. Training features never leave their rank;
    test features go to all ranks a chunk at a time, and the neighbours found there come back.

    Ties: of training samples of exactly the same similarity, those of the lower class are nearer. Of classes with
    equal votes the lower number goes first. A class that no neighbour belongs to is never among the five.

    Args:
        train_features: `[N, F]`, need not be normalised; half precision is computed in float32.
        train_labels: `[N]` integers below `num_classes`.
        test_features: `[M, F]`.
        test_labels: `[M]`.
        k: neighbours that vote.
        temperature: of the votes; the smaller, the more the nearest count.
        num_classes: number of classes.
        chunk: test samples of all ranks that are compared at once, at least one of each; beside one copy of the
            training features, memory grows with `chunk x N`.
        stop: polled after each chunk by all ranks together; other than 0 raises `Stopped`.

    Raises:
        UserError: shapes or labels do not fit, features are not finite, or one set has no label; on all ranks.
        Stopped: on all ranks, where `stop` says so.
    """
    train_features, train_labels = labelled(train_features, train_labels, num_classes, "training")
    test_features, test_labels = labelled(test_features, test_labels, num_classes, "test")
    require_same_width(train_features, test_features)
    k = min(k, int(all_sum(torch.tensor(len(train_features)))))
    bank = F.normalize(train_features, dim=1)  # [n, F]
    counts = torch.tensor([0, 0, len(test_labels)])  # right at first, right among five, all
    for features, labels in _chunks(test_features, test_labels, -(-chunk // world_size())):
        queries = F.normalize(features, dim=1).to(bank.device)
        similarity, neighbours = _nearest(queries, bank, train_labels, k)
        # On the CPU votes are added up in one order; elsewhere classes of equal votes could come out unequal.
        counts[:2] += _right(similarity.cpu(), neighbours.cpu(), labels.cpu(), temperature, num_classes)
        if code := stop():
            raise Stopped(code)
    top1, top5, tested = all_sum(counts).tolist()
    return KNNResult(top1 / tested, top5 / tested)


def _chunks(features: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Equally many chunks of `size` rows on every rank, padded with zeros that have label -1."""
    most = int(gather(torch.tensor([len(features)])).max())
    for start in range(0, most, size):
        rows, wanted = features[start : start + size], labels[start : start + size]
        missing = size - len(rows)
        yield F.pad(rows, (0, 0, 0, missing)), F.pad(wanted, (0, missing), value=-1)


def _nearest(queries: Tensor, bank: Tensor, bank_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarity and label `[c, k]` of the k samples of all ranks' banks nearest to this rank's queries `[c, F]`."""
    similarity, labels = (
        gather(found).view(world_size(), world_size(), len(queries), k)[:, rank()].transpose(0, 1).flatten(1)
        for found in _nearest_here(gather(queries), bank, bank_labels, k)
    )  # [c, world * k]
    by_label = labels.argsort(dim=1, stable=True)
    similarity, labels = similarity.take_along_dim(by_label, 1), labels.take_along_dim(by_label, 1)
    nearest = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.take_along_dim(nearest, 1), labels.take_along_dim(nearest, 1)


def _nearest_here(queries: Tensor, bank: Tensor, bank_labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarity and label `[q, k]` of the k samples of this rank's bank `[n, F]` nearest to each query `[q, F]`.

    Where the bank has fewer, samples of similarity -inf follow.
    """
    similarity = queries @ bank.T  # [q, n]
    if len(bank) <= k:
        padding = (0, k - len(bank))
        labels = bank_labels.expand(len(queries), -1)
        return F.pad(similarity, padding, value=-torch.inf), F.pad(labels, padding)
    best, index = similarity.topk(k + 1, dim=1)
    labels = bank_labels[index[:, :k]]
    # `topk` takes any of the samples that share the k-th place
    for row in (best[:, k - 1] == best[:, k]).nonzero()[:, 0].tolist():
        above = int((best[row] > best[row, k]).sum())
        equal = bank_labels[similarity[row] == best[row, k]]
        labels[row, above:] = equal.topk(k - above, largest=False).values
    return best[:, :k], labels


def _right(
    similarity: Tensor, neighbours: Tensor, labels: Tensor, temperature: float, num_classes: int
) -> Tensor:
    """How many samples of labels `[c]` get their own class at first, and among five `[2]`, from neighbours `[c, k]`."""
    # Votes relative to the best neighbour's, in float64: exp(1 / temperature) overflows below 0.012.
    weights = ((similarity - similarity[:, :1]).double() / temperature).exp()
    votes = weights.new_zeros(len(labels), num_classes).scatter_add_(1, neighbours, weights)
    own = votes.gather(1, labels.clamp(min=0)[:, None])  # [c, 1]
    below = torch.arange(num_classes) < labels[:, None]
    place = ((votes > own) | ((votes == own) & below)).sum(1)
    voted = (neighbours == labels[:, None]).any(1)
    return torch.stack([(voted & (place < 1)).sum(), (voted & (place < 5)).sum()])


def require_same_width(train_features: Tensor, test_features: Tensor) -> None:
    """Raise a UserError where the features of two sets, [N, F] and [M, F], are not of one backbone."""
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"training features have {train_features.shape[1]} numbers, test features {test_features.shape[1]}",
            where="evaluation",
            fix="compute both with the same backbone",
        )


def labelled(features: Tensor, labels: Tensor, num_classes: int, name: str) -> tuple[Tensor, Tensor]:
    """The samples of this rank that have a label: features `[n, F]` in at least float32, labels `[n]` int64.

    Every rank calls with its share of the set; what is wrong with one share is raised on all ranks.

    Raises:
        UserError: shapes do not fit, a feature is not finite, a label is outside the classes, or none is left.
    """
    fix = "check the labels and the backbone that the features come from"
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UserError(
            f"{name} features {list(features.shape)} and labels {list(labels.shape)} must be [N, F] and [N]",
            where="evaluation",
            fix=fix,
        )
    labels = labels.to(features.device, torch.int64)
    has_label = labels >= 0
    extremes = [int(labels.min()), int(labels.max())] if len(labels) else [-1, -1]
    facts = torch.tensor([[int(features.isfinite().all()), int(has_label.sum()), *extremes]])
    finite, count, lowest, highest = gather(facts).unbind(1)  # [world] each
    if not bool(finite.all()):
        raise UserError(f"{name} features are not finite", where="evaluation", fix=fix)
    low, high = int(lowest.min()), int(highest.max())
    if low < -1 or high >= num_classes:
        raise UserError(
            f"{name} labels run from {low} to {high}, outside the {num_classes} classes",
            where="evaluation",
            fix="evaluate on data of the same classes, or build their index again",
        )
    if not bool(count.any()):
        raise UserError(
            f"no {name} sample has a label",
            where="evaluation",
            fix="evaluate on shards whose samples have labels",
        )
    features = features if features.dtype == torch.float64 else features.float()
    # a mask copies, and the features may be most of the memory
    return (features, labels) if bool(has_label.all()) else (features[has_label], labels[has_label])
