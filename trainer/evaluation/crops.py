"""Common parts of `--linear` and `--finetune`: SGD on random crops, with a learning rate chosen on held-out images."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings, Settings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.subsets import held_out_subset
from trainer.distributed.collectives import rank, world_size
from trainer.engine.deepspeed_engine import step_seed
from trainer.evaluation.measures.intervals import wilson_interval

MOMENTUM = 0.9

REFERENCE_BATCH = 256
"""Batch size for which learning rates are given. They scale linearly with it (Goyal et al. 2017, arXiv 1706.02677)."""


class CropProtocol(Settings):
    """How classifiers are trained on random crops."""

    epochs: int = Field(ge=1)
    """Passes over the training set."""
    batch: int = Field(256, ge=1)
    """Batch size of a step over all processes."""
    learning_rates: tuple[float, ...]
    """Learning rates to try, smallest first, for a batch of 256 images."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Fraction of each class of the training set that is held out to choose the learning rate."""
    seed: int = 0
    """Seed of the held-out images, the sample order and the crops."""

    @property
    def step_rates(self) -> list[float]:
        """Initial learning rates of a step."""
        return [rate * self.batch / REFERENCE_BATCH for rate in self.learning_rates]


class Split(NamedTuple):
    """The two parts of a labeled training set."""

    learned: ShardSet
    """The samples to train on."""
    held_out: ShardSet
    """The samples that choose the learning rate."""


def crop_view(settings: DataSettings) -> ViewSettings:
    """Return a view with only random resized crop and flip, of the training size (He et al. 2020, section 4.1).

    If the recipe never flips, because a mirrored digit is another object, there is no flip here either.
    """
    first = settings.views[0]
    return ViewSettings(
        size=first.size,
        flip_prob=first.flip_prob,
        color_jitter_prob=0,
        grayscale_prob=0,
        blur_prob=0,
        solarize_prob=0,
    )


def split(train_set: ShardSet, labels: NDArray[np.int64], protocol: CropProtocol) -> Split:
    """Split the samples whose label `[N]` is not -1. The split depends only on labels, fraction and seed."""
    held_out = held_out_subset(labels, protocol.held_out, protocol.seed, num_classes=train_set.num_classes)
    learned = (labels >= 0) & ~held_out
    return Split(*(train_set.subset(np.flatnonzero(mask)) for mask in (learned, held_out)))


def train_on_crops(
    learned: ShardSet,
    settings: DataSettings,
    protocol: CropProtocol,
    *,
    device: torch.device,
    name: str,
    begun: int,
    step: Callable[[Tensor, Tensor, float], object],
    save: Callable[[int], None],
    progress: ProgressBars,
) -> None:
    """Call `step` with every batch of every epoch. Every rank makes the same call.

    Args:
        learned: the samples to train on.
        settings: executor, sizes and normalization of the backbone's recipe.
        protocol: epochs, batch size and seed.
        device: device of the batches.
        name: name of the training, for the user.
        begun: number of epochs that were trained before.
        step: called with images `[b, 3, S, S]` and labels `[b]` of this rank and the factor of the learning rate, a
            half cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983). Torch's generator is seeded from the
            step and the rank, so no generator state needs to be saved.
        save: called after each epoch with the number of finished epochs.
        progress: output for the user.

    Raises:
        UserError: there are fewer images than a batch.
    """
    one_view = settings.model_copy(update={"views": (crop_view(settings),)})
    loader = TrainLoader(
        learned,
        one_view,
        seed=protocol.seed,
        rank=rank(),
        world_size=world_size(),
        global_batch=protocol.batch,
        device=device,
    )
    with loader:
        per_epoch = loader.steps_per_epoch
        total, first = protocol.epochs * per_epoch, begun * per_epoch
        if begun:
            progress.say(f"{name}: resuming after epoch {begun} of {protocol.epochs}")
        batches = loader.on_device(loader.batches(first))
        with progress.task(name, total, first) as advance:
            for number in range(first, total):
                batch = next(batches)
                torch.manual_seed(step_seed(protocol.seed, number, rank()))
                step(batch.views[0], batch.labels, (1 + math.cos(math.pi * number / total)) / 2)
                advance(f"epoch {number / per_epoch:.1f}")
                if (number + 1) % per_epoch == 0:
                    save((number + 1) // per_epoch)


def chosen(
    protocol: CropProtocol,
    settings: DataSettings,
    *,
    held_out_top1: Sequence[float],
    held_out_images: int,
    reached: Sequence[tuple[float, float]],
    images: int,
) -> dict[str, Any]:
    """Return the result and settings of the best learning rate on held-out images. The smallest wins a tie.

    Args:
        protocol: the training protocol.
        settings: data settings of the backbone's recipe.
        held_out_top1: held-out accuracy of each learning rate.
        held_out_images: number of held-out images.
        reached: top-1 and top-5 of each learning rate on the validation set.
        images: number of validation images.
    """
    best = held_out_top1.index(max(held_out_top1))
    top1, top5 = reached[best]
    view = crop_view(settings)
    by_rate = dict(zip(map(str, protocol.learning_rates), held_out_top1, strict=True))
    return {
        "top1": top1,
        "top5": top5,
        "interval": wilson_interval(top1, images),
        "learning_rate": protocol.learning_rates[best],
        "held_out_top1": held_out_top1[best],
        "held_out_images": held_out_images,
        "held_out_top1_by_learning_rate": by_rate,
        "momentum": MOMENTUM,
        **protocol.model_dump(include=set(CropProtocol.model_fields) - {"learning_rates"}),
        "crop_scale": view.crop_scale,
        "flip": view.flip_prob,
    }


def say_if_others_may_do_better(
    result: dict[str, Any], protocol: CropProtocol, *, name: str, option: str, progress: ProgressBars
) -> None:
    """Warn the user if the best learning rate is the smallest or the largest of several."""
    rates = protocol.learning_rates
    if len(rates) > 1 and result["learning_rate"] in (rates[0], rates[-1]):
        end = "smallest" if result["learning_rate"] == rates[0] else "largest"
        progress.say(
            f"{name}: the {end} learning rate is the best one. A value of {option} beyond it may be better"
        )
