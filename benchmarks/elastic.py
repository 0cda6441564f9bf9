"""A run that moves between numbers of processes and ZeRO stages, against one that nothing disturbs.

    python benchmarks/elastic.py [--steps 50] [--precision fp32] [--json FILE] [KEY=VALUE ...]

Trains the digits recipe on 4 processes at ZeRO 1, stops it by SIGTERM, goes on with 2 at 0, then 1 at 2, then 3 at 1;
and once on 4 at 1 without a stop. Batch norm and the feature contrast span all ranks. The queue is as long as the run
has samples, so that it holds every one that was trained on, in order: its ids must be the same. Prints how far the
losses of each part are from the undisturbed run's. Exits with 1 where the order differs or a loss by more than 1e-3.

Rounding depends on the number of processes, and the method makes its differences grow (benchmarks/world_size.py). With
`--precision fp64` they are too small to grow that far; all parts are then at ZeRO 0, which alone keeps float64.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from trainer.checkpoints.store import CheckpointStore
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

TOLERANCE, BATCH = 1e-3, 96  # divides by 4, 2, 1 and 3


@dataclass(frozen=True)
class Part:
    """A part of the run."""

    processes: int
    zero: int


PARTS = (Part(4, 1), Part(2, 0), Part(1, 2), Part(3, 1))


def all4one(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


def losses(run: RunFolder) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_records(run.metrics) if r["kind"] == "train"}


def train(run: RunFolder, until: int | None, *command: object) -> int:
    """Run a command, to its end or to a stop by SIGTERM after step `until`. Returns the last step."""
    with subprocess.Popen(
        all4one(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while until is not None and process.poll() is None:
            if max(losses(run), default=0) >= until:
                process.terminate()
                break
            time.sleep(0.05)
        output, _ = process.communicate()
    if process.returncode != (0 if until is None else 143):
        raise SystemExit(f"ended with code {process.returncode}:\n{output[-3000:]}")
    return max(losses(run))


def newest(run: RunFolder) -> dict[str, torch.Tensor]:
    loaded = CheckpointStore(run.checkpoints).load_newest()
    assert loaded is not None
    return loaded.snapshot.model


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", choices=("fp32", "fp64"), default="fp32")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    stage = (lambda part: part.zero) if args.precision == "fp32" else (lambda part: 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            all4one("data", "build", "digits", folder / "set"), check=True, stdout=subprocess.DEVNULL
        )
        settings = [
            "digits_demo",
            f"data.train={folder}/set/train",
            "data.validation=null",
            f"run.folder={folder}",
            f"train.global_batch={BATCH}",
            f"train.max_steps={args.steps}",
            f"train.precision={args.precision}",
            "method.feature_scope=global",
            "method.transformer_dropout=0",
            f"method.queue.size={args.steps * BATCH}",
            "optim.warmup_epochs=1",
            "metrics.log_every=1",
            "metrics.tensorboard=false",
            "parallel.torch_threads=1",
            *args.overrides,
        ]
        first, moved, straight = PARTS[0], RunFolder(folder / "moved"), RunFolder(folder / "straight")
        start = ("train", *settings, f"parallel.zero_stage={stage(first)}", "--nproc", first.processes)
        train(straight, None, *start, "run.name=straight")
        ends = []
        for number, part in enumerate(PARTS, 1):
            until = None if part is PARTS[-1] else args.steps * number // len(PARTS)
            more = ("resume", moved.path, f"parallel.zero_stage={stage(part)}", "--nproc", part.processes)
            ends.append(train(moved, until, *(more if number > 1 else (*start, "run.name=moved"))))
        expected, found = losses(straight), losses(moved)
        ids = [newest(run)["queue.ids"] for run in (straight, moved)]
    same_order = torch.equal(*ids) and int(ids[0].min()) >= 0
    relative = {step: abs(found[step] - loss) / abs(loss) for step, loss in expected.items()}
    print(
        f"{args.precision}, {args.steps} steps of {BATCH} images, against {first.processes} processes throughout"
    )
    rows = []
    for part, (before, end) in zip(PARTS, pairwise([0, *ends]), strict=True):
        worst = max(relative[step] for step in range(before + 1, end + 1))
        rows.append({"processes": part.processes, "zero": stage(part), "last_step": end, "relative": worst})
        print(
            f"  steps {before + 1:3} to {end:3}: {part.processes} processes, ZeRO {stage(part)}: {worst:.1e}"
        )
    print(
        f"order of samples: {'the same' if same_order else 'DIFFERENT'}; losses may differ by {TOLERANCE:.0e}"
    )
    if args.json:
        result = {
            "precision": args.precision,
            "steps": args.steps,
            "batch": BATCH,
            "overrides": args.overrides,
        }
        result |= {"same_order": same_order, "parts": rows, "relative_by_step": list(relative.values())}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(not same_order or max(relative.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
