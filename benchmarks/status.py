"""How long `all4one status` takes, and how much memory.

    python benchmarks/status.py [--runs 200] [--lines 100000] [--json FILE]

First of a folder of runs with 100 metric lines each, then of the same folder in which one run has many lines, and then
of that run alone. Each is the median of three commands. Exits with 1 if the first takes more than 1.5 s or 100 MB, or
the second more than 50 MB beyond the first.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from launch.local.rank_processes import module_command
from trainer.config.schema import load_config
from trainer.runs.run_folder import create_run

WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command from a small process: a new process counts the memory of the one that it came from as its own."""
MOST_S, MOST_MB, MOST_MORE_MB, ROUNDS = 1.5, 100, 50, 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config("digits_demo", [f"run.folder={folder}", "run.name=run000"])
        first = create_run(config, "run000")
        first.note("start", attempt=1, world_size=1, host="node")
        first.note("ready", attempt=1, step=0, total_steps=args.lines, replayed=0)
        write_lines(first.metrics, 100)
        for number in range(1, args.runs):
            shutil.copytree(first.path, folder / f"run{number:03}")
        found = {f"{args.runs} runs": measure(folder)}
        write_lines(folder / "run001" / "metrics.jsonl", args.lines)
        size = (folder / "run001" / "metrics.jsonl").stat().st_size / 1e6
        found[f"with {args.lines:,} lines ({size:.0f} MB) in one"] = measure(folder)
        found["that run alone"] = measure(folder / "run001")
    for what, (seconds, megabytes) in found.items():
        print(f"{what}: {seconds:.2f} s, {megabytes:.0f} MB")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    (seconds, few), (_, many), _ = found.values()
    return int(seconds > MOST_S or few > MOST_MB or many - few > MOST_MORE_MB)


def write_lines(path: Path, lines: int) -> None:
    """Write the metrics of a run as training writes them."""
    values = dict.fromkeys(("loss", "neighbor", "centroid", "feature", "z_std", "lr"), 0.123456789012345)
    more = {f"value_{number}": 0.98765432109876 for number in range(8)}
    with path.open("w") as file:
        for step in range(1, lines + 1):
            record = {
                "kind": "train",
                "step": step,
                "epoch": step / 100,
                **values,
                **more,
                "time": {"images_per_second": 431.5, "data_wait": 0.01, "bad_samples": 0},
            }
            file.write(json.dumps(record) + "\n")


def measure(folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of `all4one status FOLDER`."""
    times, peaks = [], []
    for _ in range(ROUNDS):
        command = module_command("launch.cli", "status", str(folder))
        done = subprocess.run(
            [sys.executable, "-c", WATCH, *command], check=True, capture_output=True, text=True
        )
        seconds, kilobytes = done.stdout.split()
        times.append(float(seconds))
        peaks.append(int(kilobytes) / 1024)
    return statistics.median(times), max(peaks)


if __name__ == "__main__":
    sys.exit(main())
