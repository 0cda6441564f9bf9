"""Neighbors in a run's queue: images beside the nearest keys of the queue in each checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipelines.devices import choose_device
from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage, decode_rgb
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.shards.mixed_set import open_train_shards
from data_pipelines.shards.shard_set import BadSample, ShardSet
from data_pipelines.shards.subsets import balanced_sample
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config
from trainer.contrast.queue import NeighborQueue
from trainer.engine.deepspeed_engine import load_model
from trainer.evaluation.features import extract
from trainer.methods import Method
from trainer.runs.components import build_method, refuse_other_set
from trainer.runs.run_folder import RunFolder
from trainer.visualization.samples import class_name, tile

_SIDE = 96


@dataclass(frozen=True)
class Seen:
    """One image on a page."""

    jpeg: bytes
    name: str
    """Class name of the image, empty if unlabeled."""
    label: int
    """-1 if unlabeled."""


@dataclass(frozen=True)
class NeighborRow:
    """An image with its nearest keys."""

    image: Seen
    neighbors: tuple[Seen | None, ...]
    """Nearest first. None if the key is one of the queue's initial random directions, or if its image cannot be
    read."""
    cosines: tuple[float, ...]
    """Cosine of each neighbor's key with the key of the image."""


@dataclass(frozen=True)
class NeighborGallery:
    """The rows of one checkpoint."""

    step: int
    rows: tuple[NeighborRow, ...]
    agreement: float | None
    """Fraction of the shown neighbors with the label of their image. None if no two labels can be compared."""


def neighbor_galleries(
    run: RunFolder, *, images: int = 6, k: int = 5, steps: int = 4
) -> list[NeighborGallery]:
    """Return the same training images beside the nearest rows of the queue, at evenly spaced checkpoints.

    The key of an image is computed from its center crop by the networks that fill the queue, in evaluation mode. Queue
    rows of the image itself are left out. Another image may appear twice if the queue holds it twice. Images are drawn
    with the run's seed from different classes. Unreadable images and invalid checkpoints are skipped.

    Args:
        run: the run.
        images: maximum number of rows in a gallery.
        k: maximum number of neighbors of an image.
        steps: maximum number of galleries.

    Returns:
        the galleries, oldest checkpoint first. The list is empty if the method has no queue, or if the dataset is
        streamed, because ids then do not identify images.

    Raises:
        UserError: the training set is missing or has changed, or the checkpoints belong to another configuration.
    """
    config = run.read_config()
    if config.data.reader == "stream":
        return []
    shards = open_train_shards(config.data)
    method = method_to_look_at(config, shards.num_classes)
    if method.queue is None:
        return []
    chosen = balanced_sample(shards.index["label"], images, config.run.seed)
    encoder, album, galleries = key_encoder(method), _Album(shards), []
    for snapshot in _spread_checkpoints(run, steps):
        refuse_other_set(snapshot.state, shards)
        load_model(method, snapshot.model)
        keys, ids = _keys(encoder, shards, chosen, config)
        rows = tuple(_rows(method.queue, keys, ids, k, album))
        galleries.append(NeighborGallery(snapshot.step, rows, _agreement(rows)))
    return galleries


class _Album:
    """The images of a dataset, each read once."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._seen: dict[int, Seen | None] = {-1: None}

    def see(self, sample: int) -> Seen | None:
        """Return an image by its id, or None if it cannot be read."""
        if sample not in self._seen:
            self._seen[sample] = self._read(sample)
        return self._seen[sample]

    def _read(self, sample: int) -> Seen | None:
        try:
            pixels = decode_rgb(self._shards.read(sample))
        except (BadSample, UnusableImage):
            return None
        label = int(self._shards.index["label"][sample])
        return Seen(tile(pixels, _SIDE), class_name(self._shards, sample), label)


def _spread_checkpoints(run: RunFolder, most: int) -> Iterator[Snapshot]:
    """Yield at most `most` of the kept checkpoints, oldest first. A single one is the newest."""
    store = CheckpointStore(run.checkpoints)
    kept: list[Path] = [path for path, _ in store.states()][::-1]
    for number in np.linspace(len(kept) - 1, 0, min(most, len(kept))).round().astype(int)[::-1]:
        try:
            snapshot = store.load(kept[number])
        except (UserError, OSError):  # damaged, or removed meanwhile by a training run
            continue
        yield snapshot


def _keys(
    encoder: nn.Module, shards: ShardSet, chosen: NDArray[np.int64], config: Config
) -> tuple[Tensor, list[int]]:
    """Return normalized keys `[n, F]` of the readable samples, and their ids, class by class."""
    weight = next(encoder.parameters())
    loader = EvalLoader(
        shards.subset(chosen),
        config.data,
        rank=0,
        world_size=1,
        batch=max(1, len(chosen)),
        device=weight.device,
        dtype=weight.dtype,
    )
    with loader:
        found = extract({"keys": encoder}, loader).of("keys")
    order = found.labels.argsort(stable=True)
    return F.normalize(found.rows[order], dim=1), chosen[found.ids[order].cpu().numpy()].tolist()


def _rows(queue: NeighborQueue, keys: Tensor, ids: list[int], k: int, album: _Album) -> Iterator[NeighborRow]:
    if not ids:
        return
    own = torch.tensor(ids, device=keys.device)
    cosines = keys @ queue.searched.to(keys.dtype).T  # [n, N]
    cosines = cosines.masked_fill(queue.ids == own[:, None], -torch.inf)
    best = cosines.topk(min(k, cosines.shape[1]), dim=1)
    for sample, values, places in zip(ids, best.values, best.indices, strict=True):
        image = album.see(sample)
        found = values.isfinite()
        neighbors = tuple(album.see(neighbor) for neighbor in queue.ids[places[found]].tolist())
        if image is not None:
            yield NeighborRow(image, neighbors, tuple(values[found].tolist()))


def _agreement(rows: tuple[NeighborRow, ...]) -> float | None:
    pairs = [
        (row.image.label, seen.label)
        for row in rows
        for seen in row.neighbors
        if seen is not None and row.image.label >= 0 and seen.label >= 0
    ]
    return sum(own == other for own, other in pairs) / len(pairs) if pairs else None


def method_to_look_at(config: Config, num_classes: int) -> Method:
    """Build a run's method for loading weights, in evaluation mode, on the GPU if there is one."""
    # none of these changes the output of a network in evaluation mode
    parallel = config.parallel.model_copy(update={"compile": False, "batch_norm": "rank"})
    alike = config.model_copy(update={"parallel": parallel, "backbone": config.backbone.drawn()})
    device = choose_device()
    return build_method(alike, num_classes, device).to(memory_format=torch.channels_last).eval()


def key_encoder(method: Method) -> nn.Module:
    """Return the network from images [B, 3, S, S] to what the queue compares [B, F], not normalized.

    It is the momentum (EMA) backbone with its projector, or the online ones if the method has no momentum encoder. If
    the queue compares features, it is the backbone alone.

    Raises:
        UserError: a custom method whose projector has another name.
    """
    networks: nn.Module = method if method.momentum is None else method.momentum
    if method.queue is not None and method.queue.search_rows is not None:
        return networks.get_submodule("backbone")
    try:
        return nn.Sequential(networks.get_submodule("backbone"), networks.get_submodule("projector"))
    except AttributeError:
        raise UserError(
            "the network that computes the queue keys of this method is unknown",
            where=type(method).__name__,
            fix="rename the network between backbone and queue to `projector`",
        ) from None
