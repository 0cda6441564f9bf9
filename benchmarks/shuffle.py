"""How well does the order mix a set? Ours against a full permutation and against shuffled shards with a buffer.

    python benchmarks/shuffle.py [--samples 1281167] [--block 100000] [--buffer 10000] [--json FILE]

Needs no images: positions alone. The set is stored in shards of 10,000, sorted by 1,000 classes (the worst case: our
own builds spread the classes). For each order prints, as means over epochs,

    classes a batch   distinct classes among 256 samples that follow each other
    same shard        chance that two samples of a batch come from one shard
    neighbors apart  median distance, in samples, between two that are stored side by side
    met again         of the pairs that share a batch in one epoch, how many share one in the next
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.sample_order import SampleOrder

SHARD, CLASSES, BATCH, EPOCHS = 10_000, 1_000, 256, 3
Ids = NDArray[np.int64]


def shard_sizes(samples: int) -> list[int]:
    return [min(SHARD, samples - start) for start in range(0, samples, SHARD)]


def blocks(samples: int, block: int) -> Callable[[int], Ids]:
    order = SampleOrder(shard_sizes(samples), seed=0, global_batch=BATCH, shuffle_block=block)
    return lambda epoch: order.samples(epoch, 0, samples)


def buffered(samples: int, size: int) -> Callable[[int], Ids]:
    """Shards in random order, then a buffer from which a random sample makes room for the next."""

    def epoch_order(epoch: int) -> Ids:
        draw = random.Random(epoch)
        shards = list(range(-(-samples // SHARD)))
        draw.shuffle(shards)
        stream = np.concatenate([np.arange(s * SHARD, min((s + 1) * SHARD, samples)) for s in shards])
        buffer, out = stream[:size].tolist(), []
        for sample in stream[size:].tolist():
            place = draw.randrange(len(buffer))
            out.append(buffer[place])
            buffer[place] = sample
        draw.shuffle(buffer)
        return np.array(out + buffer)

    return epoch_order


def quality(order: Callable[[int], Ids], samples: int) -> dict[str, float]:
    found: dict[str, list[float]] = {
        "classes a batch": [],
        "same shard": [],
        "neighbors apart": [],
        "met again": [],
    }
    batch_before: Ids | None = None
    for epoch in range(EPOCHS):
        ids = order(epoch)
        batches = ids[: len(ids) // BATCH * BATCH].reshape(-1, BATCH)
        classes = batches * CLASSES // samples
        found["classes a batch"].append(float(np.mean([len(np.unique(row)) for row in classes[::20]])))
        shards = np.sort(batches[::20] // SHARD, axis=1)
        found["same shard"].append(float(np.mean([_pairs(row) for row in shards])))
        place = np.empty(samples, np.int64)
        place[ids] = np.arange(samples)
        found["neighbors apart"].append(float(np.median(np.abs(np.diff(place)))))
        batch_of = place // BATCH
        if batch_before is not None:
            before = np.sort(batch_before[batches[::20]], axis=1)
            found["met again"].append(float(np.mean([_pairs(row) for row in before])))
        batch_before = batch_of
    return {name: float(np.mean(values)) for name, values in found.items()}


def _pairs(row: Ids) -> float:
    """Share of the pairs of a row that are equal."""
    counts = np.unique(row, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(row) * (len(row) - 1)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--block", type=int, default=100_000)
    parser.add_argument("--buffer", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    orders = {
        "full permutation": blocks(args.samples, args.samples),
        f"blocks of {args.block:,}": blocks(args.samples, args.block),
        f"buffer of {args.buffer:,}": buffered(args.samples, args.buffer),
    }
    results = {name: quality(order, args.samples) for name, order in orders.items()}
    print("| order | " + " | ".join(next(iter(results.values()))) + " |\n| --- " + "| ---: " * 4 + "|")
    for name, values in results.items():
        a, b, c, d = values.values()
        print(f"| {name} | {a:.0f} | {100 * b:.2f} % | {c:,.0f} | {100 * d:.3f} % |")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
