"""Which judges an evaluation asks, and those of them that judge features which are made once."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from trainer.evaluation.features import Features
from trainer.evaluation.knn import knn_accuracies
from trainer.evaluation.linear import linear_probe
from trainer.evaluation.retrieval import retrieval

TEMPERATURE = 0.07
"""Of the votes of kNN (Wu et al. 2018, section 4.1)."""


class Judges(Settings):
    """What is asked of a backbone."""

    knn: tuple[int, ...] = ()
    """Numbers of nearest neighbours that vote."""
    retrieval: bool = False
    """Whether validation images look for those of their own class."""
    linear_fast: bool = False
    """Whether a linear classifier is fitted to features that are made once."""

    @property
    def of_features(self) -> bool:
        """Whether any judge needs features of both sets."""
        return bool(self.knn) or self.retrieval or self.linear_fast


class Judged(NamedTuple):
    """What one judge found of one backbone."""

    backbone: str
    judge: str
    result: dict[str, Any]
    """Its figures and its settings."""


def judge_features(judges: Judges, bank: Features, queries: Features, num_classes: int) -> Iterator[Judged]:
    """Ask all judges of features; every rank calls with its own shares, and gets the results of the whole.

    Args:
        judges: which to ask.
        bank: features of the training set.
        queries: features of the validation set.
        num_classes: of both sets.

    Raises:
        UserError: features or labels that cannot be judged, such as fewer training images than neighbours.
    """
    for name, rows in queries.by_backbone.items():
        sets = bank.by_backbone[name], bank.labels, rows, queries.labels
        yield from (Judged(name, judge, result) for judge, result in _of_one(judges, sets, num_classes))


def _of_one(
    judges: Judges, sets: tuple[Tensor, Tensor, Tensor, Tensor], num_classes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if judges.knn:
        found = knn_accuracies(*sets, ks=judges.knn, temperature=TEMPERATURE, num_classes=num_classes)
        for k, accuracy in found.items():
            yield f"knn_{k}", {**asdict(accuracy), "k": k, "temperature": TEMPERATURE}
    if judges.retrieval:
        seen = retrieval(*sets[2:], num_classes=num_classes)
        recall = {f"recall_at_{k}": share for k, share in seen.recall.items()}
        yield "retrieval", {"map": seen.map, **recall, "queries": seen.queries}
    if judges.linear_fast:
        yield "linear_fast", asdict(linear_probe(*sets, num_classes=num_classes, seed=0)) | {"seed": 0}


def require_neighbours(ks: Sequence[int], labels: Tensor) -> None:
    """Raise a UserError where a set's labels `[N]`, -1 for none, are fewer than the neighbours that shall vote."""
    count = int((labels >= 0).sum())
    if max(ks, default=0) > count:
        raise UserError(
            f"{max(ks)} neighbours cannot vote: the training set has {count} labelled images",
            where="--knn-k",
            fix=f"ask for {count} at most",
        )
