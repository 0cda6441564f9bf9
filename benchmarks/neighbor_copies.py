"""What the copies cost that ranks keep for each other at ZeRO stage 1, for ResNet-50 with optimizer, EMA and queue.

    python benchmarks/neighbor_copies.py [--recipe imagenet_resnet50] [--nproc 2] [--json FILE] [KEY=VALUE ...]

Each process makes one update, so that the optimizer has its state, and then copies the state again and again. Prints
how long steps wait for the copy to host memory, and how long the exchange of the shards takes after it. In a run the
exchange goes on during the next step's passes. `--step` and `--every` are the seconds of a step and the steps between
copies. The fraction of the time is computed from them, once with the exchange hidden and once with all of it. Exits
with 1 if the first one is more than 1 %.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import load_config
from trainer.distributed.process_group import import_deepspeed, initialize
from trainer.runs.components import build_engine, build_method
from trainer.runs.neighbor_copies import NeighborCopies
from trainer.runs.supervisor import SOCKET

CLASSES, ROWS, MOST = 1000, 2, 0.01


def measure(rank: int, args: argparse.Namespace, port: int, results: Any) -> None:
    """Copy the state of one process repeatedly, and put what was measured into a queue."""
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(args.nproc)},
        **{"LOCAL_WORLD_SIZE": str(args.nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        SOCKET: "",  # copies are kept only for processes that are started again
    }
    torch.set_num_threads(1)
    process = initialize()
    batch = f"train.global_batch={ROWS * args.nproc}"
    fixed = ("parallel.zero_stage=1", f"checkpoint.replicate_every={args.every}", batch)
    config = load_config(args.recipe, [*args.settings, *fixed])
    method = build_method(config, CLASSES, process.device)
    engine = build_engine(config, method, 100, args.nproc)
    sizes = [view.size for view in config.data.views]
    views = [torch.randn(ROWS, 3, size, size).contiguous(memory_format=torch.channels_last) for size in sizes]
    engine.step(0, [Batch(views, torch.arange(ROWS), torch.arange(ROWS))])
    copies = NeighborCopies(config, process, engine)
    copied, exchanged = [], []
    for step in range(1, args.repeats + 3):
        torch.distributed.barrier()
        began = time.perf_counter()
        copies.begin(step, {})
        copied.append(time.perf_counter() - began)
        copies.finish()
        exchanged.append(time.perf_counter() - began - copied[-1])
    kept = copies.of_step(args.repeats + 2)
    results.put(
        {
            "model_bytes": sum(tensor.nbytes for tensor in kept.model.values()),
            "shard_bytes": kept.own.content.nbytes,
            "copy_seconds": statistics.median(copied[2:]),  # the first two allocate the memory
            "exchange_seconds": statistics.median(exchanged[2:]),
        }
    )
    engine.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", default="imagenet_resnet50")
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--every", type=int, default=500, help="steps between copies (default: %(default)s)")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    import_deepspeed()
    context = multiprocessing.get_context("fork")  # imports take longer than all else
    results = context.Queue()
    ranks = [context.Process(target=measure, args=(rank, args, port, results)) for rank in range(args.nproc)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    if any(one.exitcode for one in ranks):
        raise SystemExit("a process has failed")
    found = [results.get() for _ in ranks]
    slowest = {name: max(one[name] for one in found) for name in found[0]}
    copied, exchanged = slowest["copy_seconds"], slowest["exchange_seconds"]
    between = args.every * args.step
    result = slowest | {
        "recipe": args.recipe,
        "nproc": args.nproc,
        "fraction": copied / (between + copied),
        "fraction_with_exchange": (copied + exchanged) / (between + copied + exchanged),
        "host_bytes_of_a_rank": 2 * (slowest["model_bytes"] + 2 * slowest["shard_bytes"]),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["fraction"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
