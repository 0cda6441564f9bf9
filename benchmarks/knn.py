"""How long kNN evaluation takes against one matrix product and one top-k of the same size, and whether it is right.

    python benchmarks/knn.py [--train 50000] [--test 10000] [--width 512] [--threads 2] [--repeats 3] [--json FILE]

Random features in float32, ten classes, k = 20. The plain variant multiplies normalized features in chunks of as many
rows as ours, and takes torch's top-k: no votes. Variants alternate, and medians are compared. Neighbors are compared
with those of scikit-learn's exact search for the first `--checked` test rows.
Exits with 1 where the ratio is above 1.2 or neighbors differ by more than what ties in float32.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.evaluation.knn import knn_accuracy, nearest_here

K, CHUNK, CLASSES, FIGURE = 20, 256, 10, 1.2


def plain(bank: Tensor, queries: Tensor) -> None:
    """One product and one top-k a chunk."""
    for rows in queries.split(CHUNK):
        (rows @ bank.T).topk(K, dim=1)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def same_neighbors(bank: Tensor, queries: Tensor) -> bool:
    """Whether the neighbors are scikit-learn's, but for rows whose similarity ties in float32."""
    from sklearn.neighbors import NearestNeighbors

    rows = torch.arange(len(bank))
    similarity, found = nearest_here(queries, bank, rows, K)  # each row is a class of its own
    search = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(bank.double().numpy())
    distance, expected = search.kneighbors(queries.double().numpy())
    if not np.allclose(similarity.sort(dim=1, descending=True).values.numpy(), 1 - distance, atol=1e-5):
        return False
    differing = found.sort(dim=1).values != torch.from_numpy(expected).sort(dim=1).values
    last = 1 - distance[:, -1]
    for row in differing.any(1).nonzero()[:, 0].tolist():
        swapped = set(found[row].tolist()) ^ set(expected[row].tolist())
        scores = bank[sorted(swapped)] @ queries[row]
        if not torch.allclose(scores, torch.full_like(scores, float(last[row])), rtol=0, atol=1e-6):
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checked", type=int, default=500, help="test rows compared with scikit-learn's")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    train, test = (
        F.normalize(torch.randn(count, args.width, generator=generator)) for count in (args.train, args.test)
    )
    labels, test_labels = (torch.arange(len(rows)) % CLASSES for rows in (train, test))
    load = os.getloadavg()[0]

    def ours() -> None:
        knn_accuracy(train, labels, test, test_labels, k=K, num_classes=CLASSES, chunk=CHUNK)

    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(args.repeats):
        taken["ours"].append(seconds(ours))
        taken["plain"].append(seconds(lambda: plain(train, test)))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio, same = medians["ours"] / medians["plain"], same_neighbors(train, test[: args.checked])
    print(f"{args.test:,} x {args.train:,} features of {args.width}, k = {K}, {args.threads} threads")
    print(f"ours {medians['ours']:.2f} s, product and top-k {medians['plain']:.2f} s: {ratio:.2f} times")
    print(f"neighbors of {args.checked} rows are scikit-learn's: {'yes' if same else 'NO'}")
    print(f"load of the machine before: {load:.2f} on {os.cpu_count()} cores")
    if args.json:
        found = {**vars(args), "json": None, "seconds": taken, "ratio": ratio, "same": same, "load": load}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(ratio > FIGURE or not same)


if __name__ == "__main__":
    sys.exit(main())
