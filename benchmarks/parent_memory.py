"""What memory the parent process of `all4one train` adds to that of its ranks.

    python benchmarks/parent_memory.py [--nproc 1] [--json FILE]

Ranks are forks of the parent, which has imported torch and DeepSpeed. Most pages belong to both. Trains digits_demo and
prints, once the run makes steps, what belongs to each process alone (`Private_Dirty` of `/proc/PID/smaps_rollup`,
proc(5)): the memory that its end would give back. Exits with 1 if the parent has more than 60 MB alone.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from launch.local.rank_processes import module_command
from trainer.runs.records import read_speeds

MOST_MB = 60.0
PATIENCE_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = module_command("launch.cli", "data", "build", "digits", str(folder / "digits"))
        subprocess.run(built, check=True, stdout=subprocess.DEVNULL)
        sets = [f"data.train={folder}/digits/train", f"data.validation={folder}/digits/validation"]
        options = [*sets, f"run.folder={folder}", "run.name=run", "--nproc", str(args.nproc)]
        command = module_command("launch.cli", "train", "digits_demo", *options)
        parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_for_steps(folder / "run" / "metrics.jsonl", parent)
            found = {"parent": private_mb(parent.pid)}
            ranks = psutil.Process(parent.pid).children()
            found |= {f"rank {number}": private_mb(rank.pid) for number, rank in enumerate(ranks)}
        finally:
            parent.send_signal(signal.SIGTERM)
            parent.wait()
    for process, memory in found.items():
        print(f"{process}: {memory:.0f} MB of its own")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["parent"] > MOST_MB)


def private_mb(pid: int) -> float:
    """Return the memory that belongs to a process alone, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Private_Dirty: +(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _wait_for_steps(metrics: Path, parent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not read_speeds(metrics):
        if parent.poll() is not None or time.monotonic() > deadline:
            sys.exit("the run makes no step")
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
