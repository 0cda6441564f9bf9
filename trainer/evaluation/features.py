"""Frozen features of a dataset. Every rank computes and keeps the features of its own part."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.progress import ProgressBars
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.distributed.collectives import all_reduce_sum, gather, rank, world_size
from trainer.evaluation.checks import is_finite

BATCH = 128
"""Images of a rank in one forward pass. Twice as many would need more memory than a rank's share of the features."""


class EvaluationInterrupted(Exception):
    """A signal asked to stop during an evaluation. The evaluation is skipped now and done on resume."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


class OneBackbone(NamedTuple):
    """Features of samples from one backbone."""

    rows: Tensor
    """`[n, F]`."""
    labels: Tensor
    """`[n]` int64, -1 if unlabeled."""
    ids: Tensor
    """`[n]` int64, rows of the dataset's index."""

    def count_labeled(self) -> int:
        """Count the samples of all ranks that have a label. All ranks call."""
        return _count_labeled(self.labels)


class Features(NamedTuple):
    """Features of this rank's part of a dataset, in the order of the dataset, on the device of the backbones."""

    by_backbone: dict[str, Tensor]
    """`[n, F]` float32 by the name of the backbone. n may differ between ranks and be 0, but F is the same."""
    labels: Tensor
    """`[n]` int64, -1 if unlabeled."""
    ids: Tensor
    """`[n]` int64, rows of the dataset's index."""

    def of(self, name: str) -> OneBackbone:
        """Return the features of one backbone."""
        return OneBackbone(self.by_backbone[name], self.labels, self.ids)

    def count_labeled(self) -> int:
        """Count the readable images of the whole dataset that have a label. All ranks call."""
        return _count_labeled(self.labels)


@torch.no_grad()
def extract(
    backbones: Mapping[str, nn.Module],
    loader: EvalLoader,
    *,
    autocast: torch.dtype | None = None,
    stop: Callable[[], int] = lambda: 0,
    advance: Callable[[], None] = lambda: None,
) -> Features:
    """Compute the features of several backbones in evaluation mode, in one pass over the images.

    Args:
        backbones: the backbones by name. Their training modes are restored afterwards.
        loader: loader of this rank's part of the dataset. Every rank calls with its own.
        autocast: precision of the forward pass. None: full precision.
        stop: polled after each batch by all ranks together. Any value other than 0 raises `EvaluationInterrupted`.
        advance: called after each batch, for a progress bar.

    Returns:
        The features of this rank's readable images.

    Raises:
        EvaluationInterrupted: on all ranks, if `stop` returns a value other than 0.
    """
    modes = {name: backbone.training for name, backbone in backbones.items()}
    device = next(next(iter(backbones.values())).parameters()).device
    features: dict[str, list[Tensor]] = {name: [] for name in backbones}
    none = torch.empty(0, dtype=torch.int64, device=device)
    labels, ids = [none], [none]
    try:
        for backbone in backbones.values():
            backbone.eval()
        batches = iter(loader)
        # every rank polls equally often, even if its part has fewer batches or a batch has no readable sample
        for _ in range(_most(len(loader))):
            if (batch := next(batches, None)) is not None:
                with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                    for name, backbone in backbones.items():
                        features[name].append(backbone(batch.images).float())
                labels.append(batch.labels)
                ids.append(batch.ids)
                advance()
            if code := stop():
                raise EvaluationInterrupted(code)
    finally:
        for name, backbone in backbones.items():
            backbone.train(modes[name])
    # popped, so that the features of only one backbone exist twice
    joined = {name: _joined(features.pop(name), device) for name in backbones}
    return Features(joined, torch.cat(labels), torch.cat(ids))


def features_of_set(
    backbones: Mapping[str, nn.Module],
    shards: ShardSet,
    settings: DataSettings,
    progress: ProgressBars,
    task: str,
) -> Features:
    """Run `extract` in full precision on this rank's part of a dataset. `task` is the name shown to the user."""
    device = next(next(iter(backbones.values())).parameters()).device
    loader = EvalLoader(shards, settings, rank=rank(), world_size=world_size(), batch=BATCH, device=device)
    with loader:
        with progress.task(task, len(loader)) as advance:
            features = extract(backbones, loader, advance=lambda: advance(""))
        say_what_is_missing(loader, shards, progress.say)
    return features


def say_what_is_missing(loader: EvalLoader, shards: ShardSet, say: Callable[[str], object]) -> None:
    """Print how many images of a dataset could not be read and are skipped. All ranks call.

    Raises:
        UserError: on all ranks, if no image could be read.
    """
    missing = int(all_reduce_sum(torch.tensor(loader.bad_samples)))
    if missing == 0:
        return
    one = next((f"; {name}: {reason}" for name, reason in loader.bad.items()), "")
    if missing == len(shards):
        raise UserError(
            f"none of its {missing} images can be read{one}",
            where=shards.folder,
            fix="check the disk and the dataset; `all4one data verify` lists the broken samples",
        )
    say(f"{missing} of the {len(shards)} images of {shards.folder} cannot be read and are skipped{one}")


@torch.no_grad()
def feature_widths(backbones: Mapping[str, nn.Module], size: int) -> dict[str, int]:
    """Return the feature size of each backbone in evaluation mode, from a blank image of `size` pixels.

    Raises:
        UserError: the features are not finite.
    """
    device = next(next(iter(backbones.values())).parameters()).device
    blank = torch.zeros(1, 3, size, size, device=device)
    features = {name: backbone(blank) for name, backbone in backbones.items()}  # [1, F] each
    require_finite(features)
    return {name: row.shape[1] for name, row in features.items()}


def require_finite(features: Mapping[str, Tensor]) -> None:
    """Raise a UserError on all ranks if any features `[n, F]` are not finite."""
    finite = all(map(is_finite, features.values()))
    if int(all_reduce_sum(torch.tensor(int(not finite)))):
        raise UserError(
            "features are not finite", where="evaluation", fix="evaluate an earlier checkpoint of the run"
        )


def gather_features(share: OneBackbone) -> OneBackbone:
    """Gather the features of the whole dataset on every rank, in the order of the dataset for any number of ranks."""
    if world_size() == 1:
        return share
    rows, labels, ids = (gather_ragged(part) for part in share)
    order = ids.argsort()
    return OneBackbone(rows[order], labels[order], ids[order])


def gather_ragged(x: Tensor) -> Tensor:
    """Gather the rows of all ranks in rank order: `[n, …]` with a different n on each rank -> `[sum of n, …]`."""
    counts = gather(torch.tensor([len(x)])).tolist()
    padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(counts) - len(x)))
    parts = gather(padded).split(max(counts)) if max(counts) else [x]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=False)])


def _count_labeled(labels: Tensor) -> int:
    return int(all_reduce_sum((labels >= 0).sum().cpu()))


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    width = _most(parts[0].shape[1] if parts else 0)  # a rank without samples does not know the width
    return torch.cat(parts) if parts else torch.empty(0, width, device=device)


def _most(number: int) -> int:
    """Return the maximum of a number over all ranks."""
    return int(gather(torch.tensor([number])).max())
