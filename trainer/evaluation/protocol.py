"""The published linear protocol: heads trained by SGD on augmented images, on top of a backbone that stays as it is."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.loader import EvalLoader, TrainLoader
from data_pipelines.settings import DataSettings, Settings, ViewSettings
from data_pipelines.shards import ShardSet
from data_pipelines.subsets import held_out_subset
from trainer.evaluation.eval_progress import EvalProgress
from trainer.evaluation.features import Features, extract
from trainer.evaluation.head_state import HeadState
from trainer.evaluation.heads import MOMENTUM, LinearHeads
from trainer.evaluation.linear import wilson_interval
from trainer.parallel import all_sum, rank, world_size

REFERENCE_BATCH = 256
"""Images of a batch that a learning rate is for; it grows with the batch (Goyal et al. 2017, arXiv 1706.02677)."""


class LinearProtocol(Settings):
    """How `--linear` trains."""

    epochs: int = Field(100, ge=1)
    """Passes over the training set."""
    batch: int = Field(256, ge=1)
    """Images of a step, of all processes together."""
    learning_rates: tuple[float, ...] = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
    """Each has a head of its own, for each 256 images of the batch."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of each class of the training set that chooses the learning rate and is not learned from."""
    seed: int = 0
    """Of that share, the order and the crops."""


def linear_view(settings: DataSettings) -> ViewSettings:
    """Random resized crop and flip alone, of the size that the backbone learned from (He et al. 2020, section 4.1).

    Where the recipe never flips, since a mirrored digit is another thing, nothing is flipped here.
    """
    first = settings.views[0]
    return ViewSettings(size=first.size, flip=first.flip, jitter=0, grey=0, blur=0, solarise=0)


def linear_protocol(
    backbones: Mapping[str, nn.Module], train_set: ShardSet, validation_set: ShardSet, settings: DataSettings,
    protocol: LinearProtocol, *, weights: str, state: Path, progress: EvalProgress,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Train a head for every learning rate in one pass, choose on held-out training images, report on the others.

    Every rank calls alike, and gets the same results. A killed training goes on with the next epoch.

    Args:
        backbones: by name, in evaluation mode; their weights stay.
        train_set: to learn from.
        validation_set: chooses nothing.
        settings: executor, sizes and normalisation of the backbones' recipe.
        protocol: what is trained.
        weights: hash of the backbones' weights.
        state: file of what is half trained.
        progress: what the user sees.

    Yields:
        Backbone's name and what its best head reaches, with the held-out result of each learning rate.

    Raises:
        UserError: too few training images for a batch or of a class, or features that are not finite.
    """  # fmt: skip
    labels = train_set.index["label"].astype(np.int64)
    held_out = held_out_subset(labels, protocol.held_out, protocol.seed, num_classes=train_set.num_classes)
    learned = train_set.subset(np.flatnonzero((labels >= 0) & ~held_out))
    facts = {
        "weights": weights, "train": train_set.fingerprint, "settings": protocol.model_dump(mode="json"),
        "view": linear_view(settings).model_dump(mode="json"),
    }  # fmt: skip
    saved = HeadState(state, facts)
    heads = _train(backbones, learned, settings, protocol, saved, progress)
    chosen = train_set.subset(np.flatnonzero(held_out))
    judging = _features(backbones, chosen, settings, progress, "held-out training images")
    reporting = _features(backbones, validation_set, settings, progress, "validation images")
    images = int(all_sum((reporting.labels >= 0).sum().cpu()))
    for name, several in heads.items():
        scores = several.accuracy(judging.by_backbone[name], judging.labels)
        held_out_top1 = [top1 for top1, _ in scores]
        best = held_out_top1.index(max(held_out_top1))
        top1, top5 = several.accuracy(reporting.by_backbone[name], reporting.labels)[best]
        yield (
            name,
            {
                "top1": top1, "top5": top5, "interval": wilson_interval(top1, images),
                "learning_rate": protocol.learning_rates[best], "held_out_top1": held_out_top1[best],
                "held_out_images": int(held_out.sum()),
                "held_out_top1_by_learning_rate": dict(
                    zip(map(str, protocol.learning_rates), held_out_top1, strict=True)
                ),
                "momentum": MOMENTUM, **protocol.model_dump(exclude={"learning_rates"}),
                "crop_scale": linear_view(settings).crop_scale, "flip": linear_view(settings).flip,
            },
        )  # fmt: skip
        if best in (0, len(scores) - 1) and len(scores) > 1:
            end = "smallest" if best == 0 else "largest"
            progress.say(
                f"{name}: the {end} learning rate does best; --learning-rates beyond it may do better"
            )
    saved.remove()


def _train(
    backbones: Mapping[str, nn.Module], learned: ShardSet, settings: DataSettings, protocol: LinearProtocol,
    saved: HeadState, progress: EvalProgress,
) -> dict[str, LinearHeads]:  # fmt: skip
    device = next(next(iter(backbones.values())).parameters()).device
    one_view = settings.model_copy(update={"views": (linear_view(settings),)})
    rates = [rate * protocol.batch / REFERENCE_BATCH for rate in protocol.learning_rates]
    loader = TrainLoader(
        learned, one_view, seed=protocol.seed, rank=rank(), world_size=world_size(), global_batch=protocol.batch,
        device=device,
    )  # fmt: skip
    with loader:
        heads = {
            name: LinearHeads(rates, learned.num_classes, width, device)
            for name, width in _widths(backbones, settings, device).items()
        }
        per_epoch = loader.steps_per_epoch
        begun = saved.load(heads)
        if begun:
            progress.say(f"going on after epoch {begun} of {protocol.epochs}")
        total, batches = protocol.epochs * per_epoch, loader.batches(begun * per_epoch)
        with progress.task("linear", total, begun * per_epoch) as advance:
            for step in range(begun * per_epoch, total):
                batch = next(batches)
                factor = (1 + math.cos(math.pi * step / total)) / 2
                for name, backbone in backbones.items():
                    features = _frozen(backbone, batch.views[0])
                    heads[name].step(features, batch.labels, factor=factor, batch=protocol.batch)
                advance(f"epoch {step / per_epoch:.1f}")
                if (step + 1) % per_epoch == 0:
                    saved.save(heads, (step + 1) // per_epoch)
    return heads


@torch.no_grad()
def _frozen(backbone: nn.Module, images: Tensor) -> Tensor:
    """Features `[b, F]` of images `[b, 3, S, S]`."""
    features: Tensor = backbone(images).float()
    return features


def _widths(
    backbones: Mapping[str, nn.Module], settings: DataSettings, device: torch.device
) -> dict[str, int]:
    size = settings.views[0].size
    blank = torch.zeros(1, 3, size, size, device=device)
    features = {name: _frozen(backbone, blank) for name, backbone in backbones.items()}  # [1, F] each
    _require_finite(features)
    return {name: row.shape[1] for name, row in features.items()}


def _require_finite(features: Mapping[str, Tensor]) -> None:
    """Raise a UserError on all ranks where features `[n, F]` of any of them are not finite."""
    finite = all(bool(rows.isfinite().all()) for rows in features.values())
    if int(all_sum(torch.tensor(int(not finite)))):
        raise UserError(
            "features are not finite", where="evaluation", fix="judge an earlier checkpoint of the run"
        )


def _features(
    backbones: Mapping[str, nn.Module], shards: ShardSet, settings: DataSettings, progress: EvalProgress,
    name: str,
) -> Features:  # fmt: skip
    device = next(next(iter(backbones.values())).parameters()).device
    loader = EvalLoader(shards, settings, rank=rank(), world_size=world_size(), batch=256, device=device)
    with loader, progress.task(f"features of {name}", len(loader)) as advance:
        found = extract(backbones, loader, advance=lambda: advance(""))
    _require_finite(found.by_backbone)
    return found
