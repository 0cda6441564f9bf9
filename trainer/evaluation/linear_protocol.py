"""The published linear protocol: heads trained by SGD on augmented images, on top of a frozen backbone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.evaluation.crops import (
    CropProtocol,
    chosen,
    crop_view,
    say_if_others_may_do_better,
    split,
    train_on_crops,
)
from trainer.evaluation.features import feature_widths, features_of_set, require_finite
from trainer.evaluation.linear_heads import LinearHeads
from trainer.evaluation.training_state import TrainingState


class LinearProtocol(CropProtocol):
    """How `--linear` trains: a separate head for each learning rate."""

    epochs: int = Field(100, ge=1)
    """Passes over the training set."""
    learning_rates: tuple[float, ...] = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
    """Learning rates to try, smallest first, for a batch of 256 images."""


def linear_protocol(
    backbones: Mapping[str, nn.Module],
    train_set: ShardSet,
    validation_set: ShardSet,
    settings: DataSettings,
    protocol: LinearProtocol,
    *,
    weights: str,
    state: Path,
    progress: ProgressBars,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train a head for every learning rate in one pass, choose one on held-out training images, and evaluate it.

    Every rank makes the same call and gets the same results. A killed training resumes with the next epoch.

    Args:
        backbones: the backbones by name, in evaluation mode. Their weights are not changed.
        train_set: the dataset to train on.
        validation_set: the dataset to evaluate on. It chooses nothing.
        settings: executor, sizes and normalization of the backbones' recipe.
        protocol: the training protocol.
        weights: hash of the backbones' weights.
        state: file with the state of an unfinished training.
        progress: output for the user.

    Yields:
        The backbone's name and the result of its best head, with the held-out result of each learning rate.

    Raises:
        UserError: there are too few training images for a batch or a class, or features are not finite.
    """
    learned, held_out = split(train_set, train_set.index["label"].astype(np.int64), protocol)
    facts = {
        "weights": weights,
        "train": train_set.fingerprint,
        "settings": protocol.model_dump(mode="json"),
        "view": crop_view(settings).model_dump(mode="json"),
    }
    saved = TrainingState(state, facts)
    heads = _train(backbones, learned, settings, protocol, saved, progress)
    held_out_features = features_of_set(
        backbones, held_out, settings, progress, "features of held-out training images"
    )
    validation_features = features_of_set(
        backbones, validation_set, settings, progress, "features of validation images"
    )
    for found in (held_out_features, validation_features):
        require_finite(found.by_backbone)
    images, held_out_images = validation_features.count_labeled(), held_out_features.count_labeled()
    for name, several in heads.items():
        scores = several.accuracy(held_out_features.by_backbone[name], held_out_features.labels)
        result = chosen(
            protocol,
            settings,
            held_out_top1=[top1 for top1, _ in scores],
            held_out_images=held_out_images,
            reached=several.accuracy(validation_features.by_backbone[name], validation_features.labels),
            images=images,
        )
        yield name, result
        say_if_others_may_do_better(result, protocol, name=name, option="--linear-rates", progress=progress)
    saved.remove()


def _train(
    backbones: Mapping[str, nn.Module],
    learned: ShardSet,
    settings: DataSettings,
    protocol: LinearProtocol,
    saved: TrainingState,
    progress: ProgressBars,
) -> dict[str, LinearHeads]:
    device = next(next(iter(backbones.values())).parameters()).device
    heads = {
        name: LinearHeads(protocol.step_rates, learned.num_classes, width, device)
        for name, width in feature_widths(backbones, settings.views[0].size).items()
    }
    tensors = {
        f"{backbone}.{name}": tensor
        for backbone, several in heads.items()
        for name, tensor in several.tensors.items()
    }
    if begun := saved.notes().get("epoch", 0):
        saved.load(tensors)

    @torch.no_grad()
    def step(images: Tensor, labels: Tensor, factor: float) -> None:
        for name, backbone in backbones.items():
            features = backbone(images).float()  # [b, F]
            heads[name].step(features, labels, factor=factor, batch=protocol.batch)

    train_on_crops(
        learned,
        settings,
        protocol,
        device=device,
        name="linear",
        begun=begun,
        step=step,
        save=lambda epoch: saved.save(tensors, {"epoch": epoch}),
        progress=progress,
    )
    return heads
