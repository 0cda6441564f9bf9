"""Frozen features of a set; every rank makes and keeps those of its own share."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.settings import DataSettings
from data_pipelines.shards.shard_set import ShardSet
from trainer.distributed.collectives import all_reduce_sum, gather, rank, world_size
from trainer.runs.progress import ProgressBars

_BATCH = 256  # images of a rank that go through a backbone together


class EvaluationInterrupted(Exception):
    """A signal asked to stop during an evaluation, which is left out and done on resume."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


class OneBackbone(NamedTuple):
    """Features of samples by one backbone."""

    rows: Tensor
    """`[n, F]`."""
    labels: Tensor
    """`[n]` int64, -1 where unlabeled."""
    ids: Tensor
    """`[n]` int64: rows of the set's index."""


class Features(NamedTuple):
    """Features of this rank's share of a set, in the set's order, on the backbones' device."""

    by_backbone: dict[str, Tensor]
    """`[n, F]` float32 by backbone's name; n may differ between ranks and be 0, F does not."""
    labels: Tensor
    """`[n]` int64, -1 where unlabeled."""
    ids: Tensor
    """`[n]` int64: rows of the set's index."""

    def of(self, name: str) -> OneBackbone:
        """Those of one backbone."""
        return OneBackbone(self.by_backbone[name], self.labels, self.ids)

    def count_labeled(self) -> int:
        """Images of the whole set that could be read and have a label; all ranks call."""
        return int(all_reduce_sum((self.labels >= 0).sum().cpu()))


@torch.no_grad()
def extract(
    backbones: Mapping[str, nn.Module],
    loader: EvalLoader,
    *,
    autocast: torch.dtype | None = None,
    stop: Callable[[], int] = lambda: 0,
    advance: Callable[[], None] = lambda: None,
) -> Features:
    """Features of several backbones in evaluation mode, in one pass over the images.

    Args:
        backbones: by name; their training modes are put back afterwards.
        loader: this rank's share of the set; every rank calls with its own.
        autocast: precision of the forward pass, None for full.
        stop: polled after each batch by all ranks together; other than 0 raises `EvaluationInterrupted`.
        advance: called after each batch, for a progress bar.

    Returns:
        Those of this rank's share that could be read.

    Raises:
        Stopped: on all ranks, where `stop` says so.
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
        # every rank polls equally often, also where its share has fewer batches or some hold no good sample
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
    # popped, so that no more than one backbone's features exist twice
    joined = {name: _joined(features.pop(name), device) for name in backbones}
    return Features(joined, torch.cat(labels), torch.cat(ids))


def features_of_set(
    backbones: Mapping[str, nn.Module],
    shards: ShardSet,
    settings: DataSettings,
    progress: ProgressBars,
    task: str,
) -> Features:
    """As `extract`, in full precision, of this rank's share of a set; `task` is what the user sees it called."""
    device = next(next(iter(backbones.values())).parameters()).device
    loader = EvalLoader(shards, settings, rank=rank(), world_size=world_size(), batch=_BATCH, device=device)
    with loader:
        with progress.task(task, len(loader)) as advance:
            features = extract(backbones, loader, advance=lambda: advance(""))
        say_what_is_missing(loader, shards, progress.say)
    return features


def say_what_is_missing(loader: EvalLoader, shards: ShardSet, say: Callable[[str], object]) -> None:
    """Tell how many images of a set could not be read and are left out; all ranks call.

    Raises:
        UserError: on all ranks, where none could.
    """
    missing = int(all_reduce_sum(torch.tensor(loader.bad_samples)))
    if missing == 0:
        return
    one = next((f"; {name}: {reason}" for name, reason in loader.bad.items()), "")
    if missing == len(shards):
        raise UserError(
            f"none of its {missing} images can be read{one}",
            where=shards.folder,
            fix="mend the disk or the set; `all4one data verify` names what is broken",
        )
    say(f"{missing} of the {len(shards)} images of {shards.folder} cannot be read and are left out{one}")


@torch.no_grad()
def feature_widths(backbones: Mapping[str, nn.Module], size: int) -> dict[str, int]:
    """Numbers of a feature of each backbone, in evaluation mode, from a blank image of `size` pixels.

    Raises:
        UserError: they are not finite.
    """
    device = next(next(iter(backbones.values())).parameters()).device
    blank = torch.zeros(1, 3, size, size, device=device)
    features = {name: backbone(blank) for name, backbone in backbones.items()}  # [1, F] each
    require_finite(features)
    return {name: row.shape[1] for name, row in features.items()}


def require_finite(features: Mapping[str, Tensor]) -> None:
    """Raise a UserError on all ranks where features `[n, F]` of any of them are not finite."""
    finite = all(bool(rows.isfinite().all()) for rows in features.values())
    if int(all_reduce_sum(torch.tensor(int(not finite)))):
        raise UserError(
            "features are not finite", where="evaluation", fix="judge an earlier checkpoint of the run"
        )


def gather_features(share: OneBackbone) -> OneBackbone:
    """Features of the whole set on every rank, in the set's order whatever the number of ranks."""
    if world_size() == 1:
        return share
    rows, labels, ids = (gather_ragged(part) for part in share)
    order = ids.argsort()
    return OneBackbone(rows[order], labels[order], ids[order])


def gather_ragged(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order: `[n, …]` with an n of each rank's own -> `[sum of n, …]`."""
    counts = gather(torch.tensor([len(x)])).tolist()
    padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(counts) - len(x)))
    parts = gather(padded).split(max(counts)) if max(counts) else [x]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=False)])


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    width = _most(parts[0].shape[1] if parts else 0)  # a rank without a sample cannot know it
    return torch.cat(parts) if parts else torch.empty(0, width, device=device)


def _most(number: int) -> int:
    """The largest of all ranks' numbers."""
    return int(gather(torch.tensor([number])).max())
