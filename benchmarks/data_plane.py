"""What the data plane costs beside the pixels: reading, numbers, the index of huge sets, resume, waiting.

    python benchmarks/data_plane.py [--data FOLDER] [--json FILE]

FOLDER holds `imagenet1k-sample/ILSVRC2012_img_train.tar`; without it ALL4ONE_TEST_DATA is looked at. Prints

    overhead    ms an image in Python at batch 256: order, read with CRC, header check, numbers of two views
    open, seek  an index of 1,281,167 samples and one of 100 million (no images): time to open it for the first time,
                which hashes it, to open it again, and to find the first batch at 50 places, and the memory that the
                last two add to a process
    resume      a set of 1,281,167 samples (the real images, linked many times): time from opening it to the first
                batch in the middle of an epoch over that at its start
    waiting     share of the time that a consumer of 100 ms a step waits for batches of 16

Times are medians. Exits with 1 where a figure is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from data_pipelines.imaging.augment import numbers_of_views
from data_pipelines.imaging.images import check
from data_pipelines.loading.sample_order import SampleOrder
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.index import ROW, VERSION, DatasetRecord, ShardRecord, fingerprint, read_record
from data_pipelines.shards.shard_set import ShardSet

IMAGENET, HUGE = 1_281_167, 100_000_000
SETTLED = 2.5
"""Seconds after which the result of hashing a file is kept."""
VIEWS = (ViewSettings(blur_prob=1.0), ViewSettings(blur_prob=0.1, solarize_prob=0.2))


class Figure(NamedTuple):
    """A value and the most that it may be."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def reached(self) -> bool:
        return self.value <= self.bound


def overhead(folder: Path) -> list[Figure]:
    """The parts that are ours, one thread, warm page cache."""
    shards = ShardSet.open(folder)
    order = SampleOrder(shards.shard_sizes, seed=0, global_batch=256, shuffle_block=100_000)
    totals = []
    for epoch in range(9):
        began = time.perf_counter()
        ids = order.samples(epoch, 0, 256)
        for sample in ids.tolist():
            check(shards.read(sample), decode=False)
        numbers_of_views(VIEWS, shards.sizes(ids), seed=0, epoch=epoch, samples=ids)
        totals.append(1000 * (time.perf_counter() - began) / len(ids))
    return [Figure("overhead, batch 256", statistics.median(totals), 0.15, "ms/image")]


def huge_index(folder: Path, samples: int, per_shard: int) -> None:
    """A set of sparse shards with an index of one form throughout."""
    folder.mkdir()
    counts = [min(per_shard, samples - start) for start in range(0, samples, per_shard)]
    rows = np.lib.format.open_memmap(folder / "index.npy", "w+", ROW, (samples,))
    start = 0
    for number, count in enumerate(counts):
        part = rows[start : start + count]
        part["shard"], part["offset"], part["size"] = number, 512 + 1024 * np.arange(count), 500
        part["label"], part["width"], part["height"] = np.arange(count) % 1000, 500, 375
        start += count
        with (folder / f"shard-{number:06d}.tar").open("wb") as file:
            file.truncate(1024 * (count + 2))
    rows.flush()
    record = DatasetRecord(
        version=VERSION,
        fingerprint=fingerprint(rows),
        samples=samples,
        quarantined=0,
        classes=tuple(f"n{label:08d}" for label in range(1000)),
        shards=tuple(
            ShardRecord(name=f"shard-{number:06d}.tar", size=1024 * (count + 2), samples=count)
            for number, count in enumerate(counts)
        ),
    )
    (folder / "dataset.json").write_text(record.model_dump_json())


def probe(folder: Path) -> dict[str, float]:
    """Open a set and find a batch at many places; in a process of its own."""
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.perf_counter()
    shards = ShardSet.open(folder)
    opened = time.perf_counter() - began
    places = np.linspace(0, len(shards) - 4096, 50).astype(int)
    seeks = []
    for epoch, place in enumerate(places.tolist()):
        # a new order each time: nothing is remembered from the place before
        began = time.perf_counter()
        order = SampleOrder(shards.shard_sizes, seed=0, global_batch=4096, shuffle_block=100_000)
        ids = order.samples(epoch, place, place + 4096)
        shards.sizes(ids)
        seeks.append(time.perf_counter() - began)
    return {
        "open_ms": 1000 * opened,
        "seek_s": max(seeks),
        "added_mb": (process.memory_info().rss - before) / 2**20,
        "resident_mb": process.memory_info().rss / 2**20,
    }


def scale(samples: int, bounds: tuple[float, float, float, float | None]) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        huge_index(folder, samples, 10_000)
        time.sleep(SETTLED)
        command = [sys.executable, __file__, "--probe", str(folder)]
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(name) / "cache")}  # of the results of hashing
        first, *runs = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
            for _ in range(6)
        ]
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    what = f"{samples:,} samples"
    yield Figure(f"{what}: open for the first time", first["open_ms"], bounds[0], "ms")
    yield Figure(f"{what}: open", middle["open_ms"], bounds[1], "ms")
    yield Figure(f"{what}: first batch, worst of 50", middle["seek_s"], bounds[2], "s")
    if bounds[3] is not None:
        yield Figure(f"{what}: memory added", middle["added_mb"], bounds[3], "MB")


def linked(folder: Path, out: Path) -> None:
    """A set of 1,281,167 samples made of a small one's shards under many names."""
    record = read_record(folder)
    rows = np.load(folder / "index.npy")
    out.mkdir()
    copies = -(-IMAGENET // len(rows))
    parts, shards = [], list[ShardRecord]()
    for copy in range(copies):
        part = rows.copy()
        part["shard"] += copy * len(record.shards)
        parts.append(part)
        for shard in record.shards:
            name = f"shard-{len(shards):06d}.tar"
            os.link(folder / shard.name, out / name)
            shards.append(shard._replace(name=name))
    index = np.concatenate(parts)
    np.save(out / "index.npy", index)
    changed = {"samples": len(index), "shards": tuple(shards), "fingerprint": fingerprint(index)}
    whole = record.model_copy(update=changed)
    (out / "dataset.json").write_text(whole.model_dump_json())


def resume(folder: Path) -> list[Figure]:
    import torch

    from data_pipelines.loading.loaders import TrainLoader

    def first_batch(at: float) -> float:
        began = time.perf_counter()
        shards = ShardSet.open(folder)
        settings = DataSettings(executor="opencv", views=VIEWS, decode_threads=2)
        with TrainLoader(
            shards, settings, seed=0, rank=0, world_size=1, global_batch=64, device=torch.device("cpu")
        ) as loader:
            next(loader.batches(round(at * loader.steps_per_epoch)))
            return time.perf_counter() - began

    first_batch(0)
    ratios = []
    for at in np.linspace(0.1, 0.9, 9):
        # several starts, since different images come first
        start = statistics.median(first_batch(0) for _ in range(3))
        ratios.append(statistics.median(first_batch(at + 1e-4 * i) for i in range(3)) / start)
    return [Figure("resume: first batch, middle / start", statistics.median(ratios), 1.1, "")]


def waiting(folder: Path) -> list[Figure]:
    import torch

    from data_pipelines.loading.loaders import TrainLoader

    settings = DataSettings(executor="opencv", views=VIEWS, decode_threads=2)
    with TrainLoader(
        ShardSet.open(folder),
        settings,
        seed=0,
        rank=0,
        world_size=1,
        global_batch=16,
        device=torch.device("cpu"),
    ) as loader:
        batches = loader.batches(0)
        next(batches)
        before, began = loader.wait_seconds, time.perf_counter()
        for _ in islice(batches, 100):
            time.sleep(0.1)
        share = (loader.wait_seconds - before) / (time.perf_counter() - began)
    return [Figure("waiting for data, 100 ms a step of 16", 100 * share, 2.0, "%")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(probe(args.probe)))
        return 0
    source = args.data / "imagenet1k-sample/ILSVRC2012_img_train.tar"
    if not source.is_file():
        parser.error(f"{source} is not there: name the folder of the images with --data")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder, many = Path(name) / "small", Path(name) / "many"
        command = [sys.executable, "-m", "launch.cli", "data", "build", str(source), str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        figures += overhead(folder)
        figures += scale(IMAGENET, (1000, 50, 0.2, 60))
        figures += scale(HUGE, (60_000, 50, 1.0, None))
        linked(folder, many)
        figures += resume(many)
        figures += waiting(folder)
    for figure in figures:
        print(
            f"{figure.name:<48}{figure.value:>10.3f} {figure.unit:<9} wanted <= {figure.bound:g}"
            f"{'' if figure.reached else '  MISSED'}"
        )
    if args.json:
        args.json.write_text(json.dumps([figure._asdict() for figure in figures], indent=1) + "\n")
    return int(not all(figure.reached for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
