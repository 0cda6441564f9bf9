"""Which judges an evaluation asks, and those of them that judge features which are made once."""

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
from trainer.evaluation.features import Features, OneBackbone, gather_features
from trainer.evaluation.finetune import FinetuneProtocol, share_labels
from trainer.evaluation.knn import knn_accuracies
from trainer.evaluation.linear_fast import linear_probe
from trainer.evaluation.linear_protocol import LinearProtocol
from trainer.evaluation.low_shot import low_shot
from trainer.evaluation.retrieval import retrieval

TEMPERATURE = 0.07
"""Of the votes of kNN (Wu et al. 2018, section 4.1)."""


class Judges(Settings):
    """What is asked of a backbone."""

    knn: tuple[int, ...] = ()
    """Numbers of nearest neighbors that vote."""
    retrieval: bool = False
    """Whether validation images look for those of their own class."""
    linear_fast: bool = False
    """Whether a linear classifier is fitted to features that are made once."""
    low_shot: tuple[float, ...] = ()
    """Shares of the training set, in (0, 1), to each of which a linear classifier is fitted."""
    low_shot_seeds: int = 5
    """Subsets of each share."""
    linear: LinearProtocol | None = None
    """How linear classifiers are trained on augmented images."""
    finetune: FinetuneProtocol | None = None
    """How whole networks are trained on augmented images."""

    @property
    def of_features(self) -> bool:
        """Whether any judge needs features of both sets."""
        return bool(self.knn or self.low_shot) or self.retrieval or self.linear_fast


class Judged(NamedTuple):
    """What one judge found of one backbone."""

    backbone: str
    judge: str
    result: dict[str, Any]
    """Its figures and its settings."""


def judge_features(
    judges: Judges, bank: Features, queries: Features, index_labels: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[Judged]:
    """Ask all judges of features; every rank calls with its own shares, and gets the results of the whole.

    kNN and retrieval share their work among the ranks. Linear classifiers of cached features take seconds on what takes
    minutes to make: every rank fits them to all features.

    Args:
        judges: which to ask.
        bank: features of the training set.
        queries: features of the validation set.
        index_labels: `[N]` classes of all rows of the training set's index.
        classes: names of the classes of both sets.

    Raises:
        UserError: features or labels that cannot be judged, such as a share that leaves a class without an image.
    """
    for name in bank.by_backbone:
        for judge, result in _by_shares(judges, bank.of(name), queries.of(name), len(classes)):
            yield Judged(name, judge, result)
        if judges.linear_fast or judges.low_shot:
            whole = gather_features(bank.of(name)), gather_features(queries.of(name))
            for judge, result in _by_all(judges, *whole, index_labels, classes):
                yield Judged(name, judge, result)


def _by_shares(
    judges: Judges, bank: OneBackbone, queries: OneBackbone, num_classes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if judges.knn:
        found = knn_accuracies(
            bank.rows,
            bank.labels,
            queries.rows,
            queries.labels,
            ks=judges.knn,
            temperature=TEMPERATURE,
            num_classes=num_classes,
        )
        for k, accuracy in found.items():
            yield f"knn_{k}", {**asdict(accuracy), "k": k, "temperature": TEMPERATURE}
    if judges.retrieval:
        seen = retrieval(*queries, num_classes=num_classes)
        recall = {f"recall_at_{k}": share for k, share in seen.recall.items()}
        yield "retrieval", {"map": seen.map, **recall, "queries": seen.queries}


def _by_all(
    judges: Judges,
    bank: OneBackbone,
    queries: OneBackbone,
    index_labels: NDArray[np.int64],
    classes: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    test = queries.rows, queries.labels
    if judges.linear_fast:
        probe = linear_probe(bank.rows, bank.labels, *test, num_classes=len(classes), seed=0)
        yield "linear_fast", asdict(probe) | {"seed": 0}
    for share in judges.low_shot:
        few = low_shot(
            *bank,
            *test,
            share=share,
            seeds=range(judges.low_shot_seeds),
            index_labels=index_labels,
            classes=classes,
        )
        yield f"low_shot_{100 * share:g}%", asdict(few)


def require_enough(judges: Judges, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raise a UserError where a training set is too small for what is asked, before its features are made.

    Args:
        judges: what is asked.
        labels: `[N]` classes of all rows of its index, -1 where unlabeled.
        classes: their names.
    """
    ks, count = judges.knn, int((labels >= 0).sum())
    for share in judges.low_shot:
        low_shot_subset(labels, share, 0, classes=classes)
    if max(ks, default=0) > count:
        raise UserError(
            f"{max(ks)} neighbors cannot vote: the training set has {count} labeled images",
            where="--knn-k",
            fix=f"ask for {count} at most",
        )
    if judges.linear is not None:
        _require_batch(judges.linear, labels, classes, "")
    if judges.finetune is not None:
        if judges.finetune.batch == 1:
            raise UserError(
                "batch norms cannot learn from one image", where="--batch", fix="--batch 2 or more"
            )
        for share in judges.finetune.shares:
            own = share_labels(labels, share, judges.finetune, classes)
            _require_batch(judges.finetune, own, classes, f" in {100 * share:g} % of the training set")


def _require_batch(
    protocol: CropProtocol, labels: NDArray[np.int64], classes: Sequence[str], place: str
) -> None:
    """Refuse a batch that the ranks cannot share evenly, or that is larger than the images to learn from, of all whose
    label `[N]` is not -1.
    """
    held_out = held_out_subset(labels, protocol.held_out, protocol.seed, num_classes=len(classes))
    count = int((labels >= 0).sum() - held_out.sum())
    batch, ranks = protocol.batch, world_size()
    below, most = batch // ranks * ranks, count // ranks * ranks
    if batch % ranks:
        near = " or ".join(str(size) for size in (below, below + ranks) if size)
        raise UserError(
            f"{batch} images do not divide over {ranks} processes", where="--batch", fix=f"--batch {near}"
        )
    if batch > count:
        raise UserError(
            f"{batch} images are more than the {count} that there are to learn from{place}",
            where="--batch",
            fix=f"--batch {most} or less" if most else "fewer processes with --nproc",
        )
