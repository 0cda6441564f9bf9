"""How long the queue takes to find neighbors, and what memory, against a whole product and torch's top-k.

    python benchmarks/neighbors.py [--lengths 4096 ...] [--batches 64 ...] [--repeats 2] [--json FILE]

Keys of two views of a batch, D = 256, k = 5, random unit rows, float32, 2 threads, `score_bytes` at its default. Memory
is the most that torch held at once of what it allocated within the search; the plain product holds all scores. One
whose scores alone would take more than `--most-bytes` is left out of the comparison, not of ours.
Exits with 1 where the two find different neighbors or ours holds more than twice `score_bytes`.

The script is not called `queue.py`: Python would take it for its own module of that name.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trainer.contrast.queue import NeighborQueue, QueueSettings

D, K, VIEWS, THREADS = 256, 5, 2, 2


def plain(queue: NeighborQueue, keys: list[Tensor]) -> list[Tensor]:
    """Places by one product and one top-k a view."""
    return [(key @ queue.rows.T).topk(K, dim=1).indices for key in keys]


def ours(queue: NeighborQueue, keys: list[Tensor]) -> list[Tensor]:
    return [found.indices for found in queue.nearest(keys, K)]


def seconds(search: Callable[[], object], repeats: int) -> float:
    """Median over the repeats."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        search()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def peak_bytes(search: Callable[[], object]) -> int:
    """The most that torch held at once of what was allocated within the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        search()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def same(rows: Tensor, keys: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether two answers score the same: rows that tie in float32 may swap."""
    differing = (a != b).any(1)
    left, right = ((keys[differing, None] * rows[places[differing]]).sum(2) for places in (a, b))
    return torch.allclose(left, right, rtol=0, atol=1e-6)


def measure(length: int, batch: int, repeats: int, most_bytes: int) -> dict[str, float | bool | None]:
    torch.manual_seed(0)
    queue = NeighborQueue(QueueSettings(size=length), D)
    keys = [F.normalize(torch.randn(batch, D), dim=1) for _ in range(VIEWS)]
    found = ours(queue, keys)
    result: dict[str, float | bool | None] = {
        "length": length,
        "batch": batch,
        "seconds": seconds(lambda: ours(queue, keys), repeats),
        "bytes": peak_bytes(lambda: ours(queue, keys)),
        "plain_seconds": None,
        "plain_bytes": None,
        "same": None,
    }
    if 4 * length * batch <= most_bytes:
        expected = plain(queue, keys)
        result |= {
            "plain_seconds": seconds(lambda: plain(queue, keys), repeats),
            "plain_bytes": peak_bytes(lambda: plain(queue, keys)),
            "same": all(same(queue.rows, k, a, b) for k, a, b in zip(keys, found, expected, strict=True)),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[2**12, 2**14, 2**16, 98304, 2**18, 2**20])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--most-bytes", type=int, default=2**31, help="largest product that is compared with")
    parser.add_argument(
        "--most-work", type=float, default=4.1e8, help="largest length x batch that is measured"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    budget = QueueSettings().score_bytes
    results, failed = [], False
    print(f"{'queue':>9} {'batch':>6} {'ours':>10} {'plain':>10} {'ratio':>6} {'MB held':>8} {'plain':>8}")
    for length in args.lengths:
        for batch in args.batches:
            if length * batch > args.most_work:
                print(f"{length:>9} {batch:>6}  left out: a product of minutes (--most-work)")
                continue
            r = measure(length, batch, args.repeats, args.most_bytes)
            results.append(r)
            bounded = r["bytes"] is not None and r["bytes"] <= 2 * budget
            failed |= r["same"] is False or not bounded
            held, other = r["bytes"] or 0, r["plain_bytes"]
            against = (
                f"{1e3 * r['plain_seconds']:8.1f}ms {(r['seconds'] or 0) / r['plain_seconds']:6.2f}"
                if r["plain_seconds"]
                else f"{'too large':>10} {'':>6}"
            )
            print(
                f"{length:>9} {batch:>6} {1e3 * (r['seconds'] or 0):8.1f}ms {against} {held / 1e6:8.0f} "
                f"{other / 1e6 if other else float('nan'):8.0f}"
                f"{'  <-- other neighbors' if r['same'] is False else ''}{'' if bounded else '  <-- too much'}",
                flush=True,
            )
            if args.json:
                args.json.write_text(json.dumps({"score_bytes": budget, "results": results}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
