"""Predicts steps of 1, 2 and 4 processes from a profile of two, and measures them.

    python benchmarks/scale_check.py [--recipe digits_demo] [--batch 64] [--steps 10] [--rounds 3] [--json FILE]
                                     [KEY=VALUE ...]

The processes are on this machine, one thread each, with the same batch each. Latency and bandwidth are measured
between two of them first. Four processes on two cores take turns, in computing and in sending. Prints the error of each
prediction.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scaling import Network, Step, predict

from trainer.config.schema import load_config

SMALL, LARGE, REPEATS = 2**10, 2**24, 20
"""Bytes of the messages that latency and bandwidth are taken from."""
PROCESSES = (1, 2, 4)


def _time_messages(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    seconds = []
    for size in (SMALL, LARGE):
        x = torch.zeros(size // 4)
        taken = []
        for _ in range(REPEATS):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(x)
            taken.append(time.perf_counter() - began)
        seconds.append(statistics.median(taken))
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


def measured_network() -> Network:
    """Of two processes here; one machine holds all."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_time_messages, (folder,), nprocs=2)
        small, large = json.loads(Path(folder, "seconds.json").read_text())
    bandwidth = (LARGE - SMALL) / (large - small)  # a sum of two ranks moves its bytes once
    return Network(2**20, small / 2, bandwidth, 0.0, 1.0)


def measured_profile(args: argparse.Namespace, processes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"train.global_batch={args.batch * processes}",
            "parallel.torch_threads=1",
            *args.overrides,
        ]
        command = [Path(sys.executable).with_name("all4one"), "profile", args.recipe, *settings]
        options = ["--nproc", str(processes), "--steps", str(args.steps), "--out", folder]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads((Path(folder) / "profile.json").read_text())
        return found


def one_round(args: argparse.Namespace) -> dict[int, tuple[float, float]]:
    """Seconds of a step that were measured and that are predicted, by the number of processes."""
    embedding = load_config(args.recipe, args.overrides).method.embedding_dim
    cores = len(os.sched_getaffinity(0))
    network = measured_network()
    print(
        f"latency {1e6 * network.latency_inside:.0f} us, {network.bandwidth_inside / 1e9:.2f} GB/s",
        flush=True,
    )
    profiles = {n: measured_profile(args, n) for n in PROCESSES}
    step = Step.of(profiles[2], embedding=embedding)
    predicted = {n: max(1.0, n / cores) * sum(predict(step, network, n).values()) for n in PROCESSES}
    return {n: (profiles[n]["without_data"], predicted[n]) for n in PROCESSES}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="digits_demo")
    parser.add_argument("--batch", type=int, default=64, help="images of a process")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    rounds = [one_round(args) for _ in range(args.rounds)]
    result = {}
    for n in PROCESSES:
        measured, predicted = (statistics.median(r[n][i] for r in rounds) for i in (0, 1))
        error = statistics.median(r[n][1] / r[n][0] - 1 for r in rounds)
        result[n] = {"measured": measured, "predicted": predicted, "error": error}
        print(f"{n} processes: {1000 * measured:7.1f} ms, predicted {1000 * predicted:7.1f} ({error:+.1%})")
    if args.json:
        facts = {"recipe": args.recipe, "batch": args.batch, "settings": args.overrides}
        args.json.write_text(json.dumps(facts | {"processes": result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
