"""Write a source as indexed shards.

The shard of each image is decided before anything is written, so the shards do not depend on the number of workers.
Each finished shard leaves a note in `.building/`. An interrupted build resumes from these notes. The index is written
only when all shards are complete.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.build.output_folder import PLAN, disk_full, locked, make_way
from data_pipelines.build.shard_writer import Note, Task, prepare, sample_bytes, shard_size, write_shards
from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from data_pipelines.imaging.depth import dim_warning
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.imaging.recode import Recoding
from data_pipelines.philox import RandomStream, permutation
from data_pipelines.shards.index import BUILDING, ROW, DatasetRecord, write_index
from data_pipelines.sources.image_sources import Item, Source
from data_pipelines.workers import spread

_SAMPLE = 256
"""Number of images to read for estimating the sizes of all. Their mean is then right to a few percent."""
_MARGIN = 1.1
"""Factor on the estimated sizes, so that few shards need a second shard for their last images."""


class BuildOptions(NamedTuple):
    """Options that decide the content of the shards."""

    shard_bytes: int = 256_000_000
    """Maximum size of a shard in bytes. A larger image gets its own shard."""
    shard_samples: int = 10_000
    """Maximum number of samples in a shard."""
    seed: int = 0
    """Seed of the random assignment of images to shards."""
    decode: bool = True
    """Whether to decode each image completely before accepting it. Otherwise only header and end marker are checked."""
    recoding: Recoding = Recoding()
    """Which images to encode again. All others keep their bytes."""


def build(
    source: Source,
    out: Path,
    options: BuildOptions = BuildOptions(),  # noqa: B008
    *,
    workers: int = 1,
    overwrite: bool = False,
    keep_notes: bool = False,
    report: Callable[[int], object] = lambda _: None,
    warn: Callable[[str], object] = lambda _: None,
) -> DatasetRecord:
    """Write a source as a dataset of shards.

    Args:
        source: the images to write.
        out: folder of the dataset. It is created if missing.
        options: options that decide the content of the shards.
        workers: number of worker processes.
        overwrite: whether to replace an existing dataset, finished or not.
        keep_notes: whether to keep the notes, so that running the same build again finds everything done. Used if the
            dataset is one of several. `drop_notes` removes the notes.
        report: called with the number of finished images whenever it increases.
        warn: called with each warning about the images.

    Raises:
        UserError: the folder contains something else, another build is writing to it, the disk is full, or no image
            is usable.
    """
    items = _spread(source, options.seed)
    exact = options.recoding == Recoding() and all(item.size_is_exact for item in items)
    scale = 1.0 if exact else _MARGIN * _growth(items[:_SAMPLE], options.recoding)
    plan = _plan(items, scale, options)
    needed = sum(shard_size(sum(_foreseen(item, scale) for item in items)) for items in plan)
    fingerprint = _fingerprint(source, options, scale)
    make_way(out, overwrite=overwrite, plan=fingerprint)
    with locked(out):
        write_whole(out / BUILDING / PLAN, fingerprint.encode())
        tasks = [
            Task(out, number, items, options.decode, options.recoding, options.shard_bytes, needed)
            for number, items in enumerate(plan)
        ]
        missing = needed - sum(path.stat().st_size for path in out.glob("shard-*.tar"))
        # The size is an estimate, so only a disk that is far too small is refused immediately.
        if missing * (1 if exact else 0.75) > shutil.disk_usage(out).free:
            raise disk_full(out, missing)
        import webdataset  # noqa: F401  imported before the workers fork, because it imports torch

        notes, done = [], 0
        for task, written in zip(tasks, spread(write_shards, tasks, workers=workers), strict=True):
            notes += written
            done += len(task.items)
            report(done)
        record = _finish(out, notes, source.classes)
    deep, top = sum(note.deep for note in notes), max((note.highest for note in notes), default=0)
    if (warning := dim_warning(deep, top)) is not None:
        warn(warning)
    if not keep_notes:
        drop_notes(out)
    return record


def drop_notes(out: Path) -> None:
    """Remove the notes of a finished build."""
    shutil.rmtree(out / BUILDING)


def _spread(source: Source, seed: int) -> list[Item]:
    """Return the items in the order in which shards take them. They are shuffled, because sources are sorted by class.

    Items that are read together stay together.
    """
    starts = np.cumsum([0, *source.runs]) if source.runs else np.arange(len(source.items) + 1)
    order = permutation(seed, RandomStream.BUILD, epoch=0, items=np.arange(len(starts) - 1))
    return [source.items[number] for run in order for number in range(starts[run], starts[run + 1])]


def _growth(sample: list[Item], recoding: Recoding) -> float:
    """Return the ratio between the bytes of images in shards and the sizes that their source estimates."""
    before = after = 0
    for item in sample:
        try:
            data, _ = prepare(item, decode=False, recoding=recoding)
        except UnusableImage:
            continue
        before += item.size
        after += len(data)
    return after / before if before else 1.0


def _plan(items: list[Item], scale: float, options: BuildOptions) -> list[list[Item]]:
    """Assign the items to shards."""
    plan: list[list[Item]] = []
    samples = 0
    for item in items:
        grown = samples + _foreseen(item, scale)
        if not plan or len(plan[-1]) >= options.shard_samples or shard_size(grown) > options.shard_bytes:
            plan.append([])
            grown = _foreseen(item, scale)
        plan[-1].append(item)
        samples = grown
    return plan


def _foreseen(item: Item, scale: float) -> int:
    return sample_bytes(round(item.size * scale), item.label)


def _fingerprint(source: Source, options: BuildOptions, scale: float) -> str:
    digest = hashlib.sha256(repr((options, source.classes, source.runs, scale)).encode())
    for item in source.items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _finish(out: Path, notes: list[Note], classes: tuple[str, ...]) -> DatasetRecord:
    kept = [note for note in notes if note.rows]
    quarantined = [entry for note in notes for entry in note.quarantined]
    if not kept:
        reasons = ", ".join(sorted({entry["reason"] for entry in quarantined}))
        raise UserError(
            f"no image of the source is usable: {reasons}", where=out, fix="check the images of the source"
        )
    rows = np.array([(shard, *row) for shard, note in enumerate(kept) for row in note.rows], dtype=ROW)
    shards = [(note.name, note.size) for note in kept]
    # If images changed during an interruption, an earlier attempt may have written more shards.
    for path in {out / name for name, _ in shards} ^ set(out.glob("shard-*.tar")):
        path.unlink()
    return write_index(out, rows, classes=classes, shards=shards, quarantined=quarantined)
