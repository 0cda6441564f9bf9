"""What it costs that all ranks agree before each step whether to stop: milliseconds, and the share of a step of 100 ms.

    python benchmarks/agreement.py [--nproc 2] [--steps 200] [--json FILE]

A step is matrix products of about 100 ms and the reduction of a gradient, with an agreement and without one by turns;
the agreement is on its way meanwhile, as in training. It computes rather than sleeps: a core that slept is slow to
wake. The cost is the median over pairs of neighboring steps of their difference; beside it is the time of an agreement
by itself, between ranks that come to it at the same moment. Exits with 1 above 1 %.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainer.runs.stop_signals import StopRequest

STEP_SECONDS, MOST = 0.1, 0.01


def _worker(rank: int, nproc: int, store: Path, steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=nproc)
    stop, gradient = StopRequest(), torch.zeros(1_000_000)
    matrix = torch.randn(512, 512)
    products = _products_of_a_step(matrix)

    def step(agreed: bool) -> float:
        began = time.perf_counter()
        agreement = stop.agreement() if agreed else None
        for _ in range(products):
            matrix @ matrix
        dist.all_reduce(gradient)
        if agreement is not None:
            agreement.result()
        return time.perf_counter() - began

    turns: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(steps // 2):
        for agreed in (False, True) if pair % 2 else (True, False):
            turns[agreed].append(step(agreed))
    alone = []
    for _ in range(steps):
        dist.barrier()
        began = time.perf_counter()
        stop.agreed()
        alone.append(time.perf_counter() - began)
    if rank == 0:
        out.write_text(json.dumps({"with": turns[True], "without": turns[False], "alone": alone}))
    dist.barrier()
    dist.destroy_process_group()


def _products_of_a_step(matrix: torch.Tensor) -> int:
    """How many products of the matrix with itself fill a step on the slowest rank."""
    began = time.perf_counter()
    for _ in range(50):
        matrix @ matrix
    seconds = torch.tensor((time.perf_counter() - began) / 50)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return max(1, round(STEP_SECONDS / seconds.item()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nproc", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder, "store"), Path(folder, "times.json")
        mp.spawn(_worker, (args.nproc, store, args.steps, out), nprocs=args.nproc)
        times = json.loads(out.read_text())
    median = {name: statistics.median(values) for name, values in times.items()}
    costs = [after - before for after, before in zip(times["with"], times["without"], strict=True)]
    share = statistics.median(costs) / median["without"]
    print(f"a step without agreement  {1000 * median['without']:.2f} ms")
    print(
        f"a step with it            {1000 * median['with']:.2f} ms: {100 * share:+.2f} % (<= {100 * MOST:.0f} %)"
    )
    print(f"an agreement by itself    {1000 * median['alone']:.3f} ms")
    if args.json:
        args.json.write_text(json.dumps({"nproc": args.nproc, "share": share, **median}, indent=1) + "\n")
    return int(share > MOST)


if __name__ == "__main__":
    sys.exit(main())
