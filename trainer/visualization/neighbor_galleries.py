"""What a run's queue takes for alike: images beside the nearest keys of their checkpoint's queue."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage, decode_rgb
from data_pipelines.loading.loaders import EvalLoader
from data_pipelines.shards.shard_set import BadSample, ShardSet
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config
from trainer.contrast.queue import NeighborQueue
from trainer.engine.deepspeed_engine import load_model
from trainer.evaluation.features import extract
from trainer.methods import Method
from trainer.runs.components import build_method, refuse_other_set
from trainer.runs.run_folder import RunFolder
from trainer.visualization.samples import balanced_sample, class_name, tile

_SIDE = 96


@dataclass(frozen=True)
class Seen:
    """One image as a page shows it."""

    jpeg: bytes
    name: str
    """Class of the image, empty where unlabeled."""
    label: int
    """-1 where unlabeled."""


@dataclass(frozen=True)
class NeighborRow:
    """An image with its nearest keys."""

    image: Seen
    neighbors: tuple[Seen | None, ...]
    """Best first; None where the key is one of the random directions that the queue began with, or where its image
    cannot be read."""
    cosines: tuple[float, ...]
    """Of each neighbor's key with that of the image."""


@dataclass(frozen=True)
class NeighborGallery:
    """The rows of one checkpoint."""

    step: int
    rows: tuple[NeighborRow, ...]
    agreement: float | None
    """Share of the neighbors shown that have their image's label; None where no two labels can be compared."""


def neighbor_galleries(
    run: RunFolder, *, images: int = 6, k: int = 5, steps: int = 4
) -> list[NeighborGallery]:
    """The same training images beside the nearest rows of the queue, at checkpoints that are spread evenly.

    An image's key is that of its center, by the networks that make the queue's keys, in evaluation mode. Rows of the
    image itself are left out; another image that the queue holds twice may stand there twice. Images are drawn by the
    run's seed from different classes. Those that cannot be read are left out, as are checkpoints that are not whole.

    Args:
        run: the run.
        images: rows of each gallery, at most.
        k: neighbors of each image, at most.
        steps: galleries, at most.

    Returns:
        the oldest checkpoint's gallery first; none where the method has no queue, or where the set is streamed, so that
        ids do not lead to images.

    Raises:
        UserError: the training set is not there or another one, or the checkpoints are of another configuration.
    """
    config = run.read_config()
    if config.data.reader == "stream":
        return []
    shards = ShardSet.open(config.data.train, config.data)
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
    """The images of a set, each read once."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._seen: dict[int, Seen | None] = {-1: None}

    def see(self, sample: int) -> Seen | None:
        """An image by its id; None where it cannot be read."""
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
    """At most so many of the kept checkpoints, oldest first; a single one is the newest."""
    store = CheckpointStore(run.checkpoints)
    kept: list[Path] = [path for path, _ in store.states()][::-1]
    for number in np.linspace(len(kept) - 1, 0, min(most, len(kept))).round().astype(int)[::-1]:
        try:
            snapshot = store.load(kept[number])
        except (UserError, OSError):  # damaged, or removed meanwhile by the run, which trains
            continue
        yield snapshot


def _keys(
    encoder: nn.Module, shards: ShardSet, chosen: NDArray[np.int64], config: Config
) -> tuple[Tensor, list[int]]:
    """Normalized keys `[n, D]` of those of the samples that can be read, and their ids, class by class."""
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
    cosines = keys @ queue.rows.to(keys.dtype).T  # [n, N]
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
    """A run's method with weights that are to be loaded, in evaluation mode, on the GPU if there is one."""
    # none of these changes what a network makes of an image in evaluation mode
    parallel = config.parallel.model_copy(update={"compile": False, "batch_norm": "rank"})
    alike = config.model_copy(update={"parallel": parallel, "backbone": config.backbone.drawn()})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_method(alike, num_classes, device).to(memory_format=torch.channels_last).eval()


def key_encoder(method: Method) -> nn.Module:
    """Images [B, 3, S, S] to keys [B, D], not normalized: the averaged backbone and projector, or the trained ones of a
    method that has no averaged copy.

    Raises:
        UserError: a method of the user's own whose projector has another name.
    """
    networks: nn.Module = method if method.momentum is None else method.momentum
    try:
        return nn.Sequential(networks.get_submodule("backbone"), networks.get_submodule("projector"))
    except AttributeError:
        raise UserError(
            "it is not known what makes the keys of this method's queue",
            where=type(method).__name__,
            fix="name the network between backbone and queue `projector`",
        ) from None
