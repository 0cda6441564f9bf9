"""What recovery costs while nothing fails: the agent of a node, the records of its ranks, and comparisons of the state.

    python benchmarks/recovery_cost.py [--nproc 2] [--seconds 30] [--step 100] [--json FILE]

Three costs, each as a fraction of a step of `--step` milliseconds:

agent           CPU time of the process that watches the ranks of a real training, as a fraction of one core. It counts
                as if a rank waited for all of it, although a node with a free core lets no rank wait.
record          what a rank writes into its record in a step with 200 messages, as `rank_record.py` measures it.
comparison      a comparison of the digits recipe's whole state every `guard.check_replicas_every` steps, with its
                result read at once, as `replica_check.py` measures it.

Exits with 1 if their sum is more than 0.5 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import rank_record
import replica_check
import torch
from lost_ranks import build_digits

from launch.local.rank_processes import module_command
from trainer.config.schema import load_config
from trainer.engine.replicas import StateKind

RECIPE = "digits_demo"
MOST = 0.005
SETTLE_SECONDS = 5.0
"""Time after the first step before the CPU time counts, seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nproc", type=int, default=2, help="ranks of the node (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training (default: %(default)s)")
    parser.add_argument("--step", type=float, default=100.0, help="milliseconds (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3000, help="of the record's step")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    every = load_config(RECIPE).guard.check_replicas_every
    compared = replica_check.seconds(replica_check.state_of(RECIPE), tuple(StateKind), 21)
    parts = {
        "agent": _agent(args.nproc, args.seconds),
        "record": rank_record.cost(messages=200, background=20, repeats=args.repeats) / 1e3 / args.step,
        "comparison": 1e3 * compared / every / args.step,
    }
    whole = sum(parts.values())
    for name, part in parts.items():
        print(f"{name:12} {part:.3%}")
    print(f"{'sum':12} {whole:.3%} of a step of {args.step:g} ms (at most {MOST:.1%})")
    if args.json:
        args.json.write_text(json.dumps({**parts, "sum": whole, "nproc": args.nproc}, indent=2) + "\n")
    return int(whole > MOST)


def _agent(nproc: int, seconds: float) -> float:
    """Return the CPU time of the process that watches the ranks of a training, as a fraction of one core."""
    with tempfile.TemporaryDirectory() as folder:
        data = build_digits(Path(folder))
        settings = [
            f"data.train={data}/train",
            f"data.validation={data}/validation",
            f"run.folder={folder}",
            "run.name=watched",
            "train.epochs=10000",
            f"train.global_batch={64 * nproc}",
            "eval.every_epochs=0",
            "parallel.torch_threads=1",
        ]
        command = module_command("launch.cli", "train", RECIPE, *settings, "--nproc", str(nproc))
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            ledger = Path(folder) / "watched" / "ledger.jsonl"
            while not (ledger.exists() and '"stepped"' in ledger.read_text()):
                if process.poll() is not None:
                    print(log.read_text()[-3000:], file=sys.stderr)
                    raise SystemExit(f"the training ended with code {process.returncode}")
                time.sleep(0.1)
            time.sleep(SETTLE_SECONDS)
            agent = psutil.Process(process.pid)
            before, began = agent.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, took = agent.cpu_times(), time.monotonic() - began
        finally:
            process.terminate()
            process.wait()
    return (after.user - before.user + after.system - before.system) / took


if __name__ == "__main__":
    sys.exit(main())
