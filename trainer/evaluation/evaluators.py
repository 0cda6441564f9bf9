"""The evaluators of an evaluation, and the implementation of those that use precomputed features."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from data_pipelines.shards.subsets import held_out_subset, low_shot_subset
from trainer.distributed.collectives import world_size
from trainer.evaluation.crops import CropProtocol
from trainer.evaluation.features import Features, OneBackbone
from trainer.evaluation.finetune import FinetuneProtocol, share_labels
from trainer.evaluation.knn import knn_accuracies
from trainer.evaluation.linear_fast import LinearClassifier, fit_linear, linear_accuracy
from trainer.evaluation.linear_protocol import LinearProtocol
from trainer.evaluation.low_shot import low_shot
from trainer.evaluation.measures.intervals import bootstrap_intervals
from trainer.evaluation.retrieval import retrieval

TEMPERATURE = 0.07
"""Temperature of the kNN votes (Wu et al. 2018, section 4.1)."""


class Evaluators(Settings):
    """The evaluators to run on a backbone."""

    knn: tuple[int, ...] = ()
    """Numbers of nearest neighbors that vote."""
    retrieval: bool = False
    """Whether to run image retrieval within the validation set."""
    linear_fast: bool = False
    """Whether to fit a linear classifier to precomputed features."""
    low_shot: tuple[float, ...] = ()
    """Fractions of the training set, in (0, 1). A linear classifier is fitted to each."""
    low_shot_seeds: int = 5
    """Number of subsets for each fraction."""
    linear: LinearProtocol | None = None
    """Training of linear classifiers on augmented images."""
    finetune: FinetuneProtocol | None = None
    """Training of whole networks on augmented images."""
    robustness: bool = False
    """Whether to measure the error of the linear classifier on corrupted images."""

    @property
    def of_features(self) -> bool:
        """Whether any evaluator needs features of both datasets."""
        return bool(self.knn or self.low_shot) or self.retrieval or self.linear_fast


class LinearClassifiers:
    """The linear classifiers of each backbone's features. Each is fitted when it is first asked for, and only once.

    Args:
        bank: features of the training set.
        num_classes: number of classes.
    """

    SEED = 0
    """Seed of the held-out part that chooses the strength of L2."""

    def __init__(self, bank: Features, num_classes: int) -> None:
        self._bank, self._num_classes = bank, num_classes
        self._fitted: dict[str, LinearClassifier] = {}

    def of(self, name: str) -> LinearClassifier:
        """Return the classifier of one backbone. Every rank calls. Raises UserError as `fit_linear`."""
        if name not in self._fitted:
            rows, labels, ids = self._bank.of(name)
            self._fitted[name] = fit_linear(
                rows, labels, num_classes=self._num_classes, seed=self.SEED, train_ids=ids
            )
        return self._fitted[name]


class Evaluated(NamedTuple):
    """The result of one evaluator for one backbone."""

    backbone: str
    evaluator: str
    result: dict[str, Any]
    """Its metrics and settings."""


def evaluate_features(
    evaluators: Evaluators,
    bank: Features,
    queries: Features,
    index_labels: NDArray[np.int64],
    classes: Sequence[str],
    classifiers: LinearClassifiers,
) -> Iterator[Evaluated]:
    """Run all evaluators that use features. Every rank calls with its own parts and gets the result of the whole.

    The training features stay on the rank that computed them. All evaluators distribute their work over the ranks.

    Args:
        evaluators: the evaluators to run.
        bank: features of the training set.
        queries: features of the validation set.
        index_labels: `[N]` classes of all rows of the training set's index.
        classes: names of the classes of both datasets.
        classifiers: the linear classifiers of the training set.

    Raises:
        UserError: features or labels cannot be evaluated, for example because a fraction leaves a class without an
            image.
    """
    for name in bank.by_backbone:
        own = bank.of(name), queries.of(name)
        for evaluator, result in _by_neighbors(evaluators, *own, len(classes)):
            yield Evaluated(name, evaluator, result)
        if evaluators.linear_fast:
            rows, labels, _ = queries.of(name)
            probe = linear_accuracy(classifiers.of(name), rows, labels)
            intervals = bootstrap_intervals(probe.top1, probe.top5, queries.count_labeled())
            yield Evaluated(name, "linear_fast", {**asdict(probe), **intervals, "seed": classifiers.SEED})
        for evaluator, result in _with_few_labels(evaluators, *own, index_labels, classes):
            yield Evaluated(name, evaluator, result)


def _by_neighbors(
    evaluators: Evaluators, bank: OneBackbone, queries: OneBackbone, num_classes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if evaluators.knn:
        found = knn_accuracies(
            bank.rows,
            bank.labels,
            queries.rows,
            queries.labels,
            ks=evaluators.knn,
            temperature=TEMPERATURE,
            num_classes=num_classes,
        )
        images = queries.count_labeled()
        for k, accuracy in found.items():
            intervals = bootstrap_intervals(accuracy.top1, accuracy.top5, images)
            yield f"knn_{k}", {**asdict(accuracy), **intervals, "k": k, "temperature": TEMPERATURE}
    if evaluators.retrieval:
        seen = retrieval(*queries, num_classes=num_classes)
        recall = {f"recall_at_{k}": share for k, share in seen.recall.items()}
        yield "retrieval", {"map": seen.map, **recall, "queries": seen.queries}


def _with_few_labels(
    evaluators: Evaluators,
    bank: OneBackbone,
    queries: OneBackbone,
    index_labels: NDArray[np.int64],
    classes: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    test = queries.rows, queries.labels
    for share in evaluators.low_shot:
        few = low_shot(
            *bank,
            *test,
            share=share,
            seeds=range(evaluators.low_shot_seeds),
            index_labels=index_labels,
            classes=classes,
        )
        yield f"low_shot_{100 * share:g}%", asdict(few)


def require_enough(evaluators: Evaluators, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raise a UserError if the training set is too small, before its features are computed.

    Args:
        evaluators: the evaluators to run.
        labels: `[N]` classes of all rows of its index, -1 if unlabeled.
        classes: names of the classes.
    """
    ks, count = evaluators.knn, int((labels >= 0).sum())
    for share in evaluators.low_shot:
        low_shot_subset(labels, share, 0, classes=classes)
    if max(ks, default=0) > count:
        raise UserError(
            f"{max(ks)} neighbors cannot vote, because the training set has only {count} labeled images",
            where="--knn-k",
            fix=f"use at most {count}",
        )
    if evaluators.linear is not None:
        _require_batch(evaluators.linear, labels, classes, "")
    if evaluators.finetune is not None:
        if evaluators.finetune.batch == 1:
            raise UserError(
                "batch norms cannot be trained on one image", where="--batch", fix="use --batch 2 or more"
            )
        for share in evaluators.finetune.shares:
            own = share_labels(labels, share, evaluators.finetune, classes)
            _require_batch(evaluators.finetune, own, classes, f" in {100 * share:g} % of the training set")


def _require_batch(
    protocol: CropProtocol, labels: NDArray[np.int64], classes: Sequence[str], place: str
) -> None:
    """Refuse a batch size that the ranks cannot split evenly, or that exceeds the number of images to train on.

    These are the images whose label `[N]` is not -1, without the held-out images.
    """
    held_out = held_out_subset(labels, protocol.held_out, protocol.seed, num_classes=len(classes))
    count = int((labels >= 0).sum() - held_out.sum())
    batch, ranks = protocol.batch, world_size()
    below, most = batch // ranks * ranks, count // ranks * ranks
    if batch % ranks:
        near = " or ".join(str(size) for size in (below, below + ranks) if size)
        raise UserError(
            f"{batch} images cannot be split evenly over {ranks} processes",
            where="--batch",
            fix=f"use --batch {near}",
        )
    if batch > count:
        raise UserError(
            f"{batch} images are more than the {count} images to train on{place}",
            where="--batch",
            fix=f"use --batch {most} or less" if most else "use fewer processes with --nproc",
        )
