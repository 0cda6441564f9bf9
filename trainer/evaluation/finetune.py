"""Fine-tuning: train the whole network on a fraction of the labels, or on the labels of another dataset."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import low_shot_subset
from trainer.evaluation.classifier import Classifier
from trainer.evaluation.crops import (
    CropProtocol,
    Split,
    chosen,
    crop_view,
    say_if_others_may_do_better,
    split,
    train_on_crops,
)
from trainer.evaluation.features import feature_widths, features_of_set
from trainer.evaluation.measures.accuracy import count_right, shares_right
from trainer.evaluation.training_state import TrainingState


class FinetuneProtocol(CropProtocol):
    """How `--finetune` trains: a separate network for each backbone, fraction and learning rate."""

    shares: tuple[float, ...]
    """Fractions of each class's training images, in (0, 1]."""
    epochs: int = Field(50, ge=1)
    """Passes over the fraction."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Learning rates to try, smallest first, for a batch of 256 images."""


class Finetuned(NamedTuple):
    """The result of fine-tuning one backbone on one fraction."""

    backbone: str
    evaluator: str
    """`finetune_10%`."""
    result: dict[str, Any]
    """Its metrics and settings."""


class _Reached(NamedTuple):
    """The result of one training. Accuracies are fractions in [0, 1]."""

    held_out_top1: float
    top1: float
    top5: float
    images: int
    """Number of readable validation images."""


def finetune(
    backbones: Mapping[str, nn.Module],
    train_set: ShardSet,
    validation_set: ShardSet,
    settings: DataSettings,
    protocol: FinetuneProtocol,
    *,
    weights: str,
    state: Path,
    progress: ProgressBars,
) -> Iterator[Finetuned]:
    """Train each backbone on each fraction with each learning rate, and choose the rate on held-out images.

    Training uses SGD with Nesterov momentum on crops and flips, without warm-up and regularization: Chen et al. 2020
    (arXiv 2002.05709, appendix B.5). One of several rates is chosen on images that are not trained on: Grill et al.
    2020 (arXiv 2006.07733). Every rank makes the same call and gets the same results. A killed training resumes with
    the next epoch.

    Args:
        backbones: the backbones by name, in evaluation mode. They are not changed.
        train_set: the dataset from which the fractions are drawn.
        protocol: the training protocol.

    All other arguments are those of `linear_protocol`.

    Yields:
        The result of the best learning rate, with the held-out result of each.

    Raises:
        UserError: there are too few training images for a fraction, a batch or a class, or features are not finite.
    """
    facts = {
        "weights": weights,
        "train": train_set.fingerprint,
        "validation": validation_set.fingerprint,
        "settings": protocol.model_dump(mode="json"),
        "view": crop_view(settings).model_dump(mode="json"),
    }
    widths = feature_widths(backbones, settings.views[0].size)
    trainings = _Trainings(validation_set, settings, protocol, TrainingState(state, facts), progress)
    labels = train_set.index["label"].astype(np.int64)
    for name, backbone in backbones.items():
        for share in protocol.shares:
            own = share_labels(labels, share, protocol, train_set.classes)
            parts = split(train_set, own, protocol)
            title = f"finetune {name} {100 * share:g}%"
            reached = [
                trainings.reached(f"{title} rate {rate:g}", backbone, widths[name], parts, step_rate)
                for rate, step_rate in zip(protocol.learning_rates, protocol.step_rates, strict=True)
            ]
            result = chosen(
                protocol,
                settings,
                held_out_top1=[found.held_out_top1 for found in reached],
                held_out_images=len(parts.held_out),
                reached=[(found.top1, found.top5) for found in reached],
                images=reached[0].images,
            )
            of_share = {"nesterov": True, "share": share, "training_images": int((own >= 0).sum())}
            yield Finetuned(name, f"finetune_{100 * share:g}%", {**result, **of_share})
            say_if_others_may_do_better(
                result, protocol, name=title, option="--finetune-rates", progress=progress
            )
    trainings.saved.remove()


def share_labels(
    labels: NDArray[np.int64], share: float, protocol: FinetuneProtocol, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Return labels `[N]` of the samples in a fraction, and -1 for all others. `--low-shot` uses the same subset.

    Raises:
        UserError: the fraction leaves a class without an image.
    """
    mask = low_shot_subset(labels, share, protocol.seed, classes=classes, option="--finetune")
    return np.where(mask, labels, -1)


class _Trainings:
    """Trains one network after the other, and saves all results and the state of the current training in one file."""

    def __init__(
        self,
        validation_set: ShardSet,
        settings: DataSettings,
        protocol: FinetuneProtocol,
        saved: TrainingState,
        progress: ProgressBars,
    ) -> None:
        self._validation_set, self._settings, self._protocol = validation_set, settings, protocol
        self.saved, self._progress = saved, progress
        before = saved.notes()
        self._under_way: tuple[str, int] = before.get("title", ""), before.get("epoch", 0)
        self._done: dict[str, dict[str, Any]] = before.get("done", {})

    def reached(
        self, title: str, backbone: nn.Module, width: int, parts: Split, step_rate: float
    ) -> _Reached:
        """Return the result of the training with this title. If there is none yet, train."""
        if title not in self._done:
            self._done[title] = self._train(title, backbone, width, parts, step_rate)._asdict()
            self.saved.save({}, {"done": self._done})
        return _Reached(**self._done[title])

    def _train(self, title: str, backbone: nn.Module, width: int, parts: Split, step_rate: float) -> _Reached:
        classifier = Classifier(backbone, parts.learned.num_classes, width, step_rate)
        begun = self._under_way[1] if self._under_way[0] == title else 0
        if begun:
            self.saved.load(classifier.tensors)

        def save(epoch: int) -> None:
            self.saved.save(classifier.tensors, {"title": title, "epoch": epoch, "done": self._done})

        train_on_crops(
            parts.learned,
            self._settings,
            self._protocol,
            device=next(backbone.parameters()).device,
            name=title,
            begun=begun,
            step=classifier.step,
            save=save,
            progress=self._progress,
        )
        held_out_top1, _, _ = self._accuracy(classifier.network, parts.held_out, f"{title}: held-out images")
        top1, top5, images = self._accuracy(
            classifier.network, self._validation_set, f"{title}: validation images"
        )
        return _Reached(held_out_top1, top1, top5, images)

    def _accuracy(self, network: nn.Module, shards: ShardSet, task: str) -> tuple[float, float, int]:
        """Return top-1 and top-5 on a dataset, and the number of readable images that have a label."""
        found = features_of_set({"logits": network}, shards, self._settings, self._progress, task)
        known = found.labels >= 0
        logits = found.by_backbone["logits"][known]  # [n, C]
        right = count_right(logits[:, None], found.labels[known])  # [1, 2]
        [(top1, top5)] = shares_right(right, len(logits))
        return top1, top5, found.count_labeled()
