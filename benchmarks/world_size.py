"""The same global batches on 1 process and on 2: how far apart are the weights?

    python benchmarks/world_size.py [--recipe cifar10] [--after 0] [--steps 20] [--precision fp32] [KEY=VALUE ...]

Trains a recipe on 1 process, goes on from its checkpoint of step `after` on 2 processes (from the start where
that is 0), and compares both `steps` later. `cifar10` is the published recipe with a narrow backbone, its first steps
those of its warm-up; `digits_demo` needs no data. Batch norm and the feature contrast span all ranks, and the
transformer has no dropout, since its masks are drawn for each rank. Prints the relative difference (norm of the
difference over the norm) of all weights, momentum copies, running statistics and queue rows, each as one vector; exits
with 1 where that of the weights is above 1e-4.

Differences of rounding grow by five orders of magnitude in twenty steps, since embeddings of an untrained network, and
later those of a class, nearly coincide: with `--precision fp64` the same comparison shows what is not rounding.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from trainer.checkpoints.store import CheckpointStore
from trainer.runs.run_folder import RunFolder

TOLERANCE = 1e-4
DATA: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cifar10": ("cifar10/train.tar", "", ("backbone.width=16", "method.queue.size=4096")),
    "digits_demo": ("digits", "/train", ()),
}
"""By recipe: what its set is built from, where in it the training part lies, and settings that make it small."""
Tensors = dict[str, torch.Tensor]


def all4one(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]


def until(step: int, run: RunFolder, *command: object) -> None:
    """Train until the checkpoint of a step is there; the rest of the schedule is not needed."""
    with subprocess.Popen(all4one(*command), stdout=subprocess.DEVNULL) as process:
        while not (run.checkpoints / f"step_{step:08d}").is_dir():
            if process.poll() is not None:
                raise SystemExit(f"training ended with code {process.returncode} before step {step}")
            time.sleep(0.1)
        process.terminate()


def copy_at(one: RunFolder, folder: Path, step: int) -> RunFolder:
    """A copy of a run as it was at a step."""
    two = RunFolder(folder)
    shutil.copytree(one.path, two.path)
    two.ledger.unlink()
    for path in two.checkpoints.glob("step_*"):
        if path.name != f"step_{step:08d}":
            shutil.rmtree(path)
    return two


def tensors(run: RunFolder, step: int) -> Tensors:
    """Weights, momentum copies, buffers and queue after a step."""
    return CheckpointStore(run.checkpoints).load(run.checkpoints / f"step_{step:08d}").model


def compare(one: Tensors, two: Tensors) -> dict[str, float]:
    """Relative difference of each kind of tensor, as one vector; integers must be equal."""
    kinds: dict[str, list[str]] = {
        "weights": [],
        "momentum copies": [],
        "running statistics": [],
        "queue rows": [],
    }
    for name, tensor in one.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, two[name]), name
        elif "running_" in name:
            kinds["running statistics"].append(name)
        else:
            first = name.split(".")[0]
            kinds[{"momentum": "momentum copies", "queue": "queue rows"}.get(first, "weights")].append(name)
    return {kind: relative([one[n] for n in names], [two[n] for n in names]) for kind, names in kinds.items()}


def relative(one: list[torch.Tensor], two: list[torch.Tensor]) -> float:
    a, b = (torch.cat([t.flatten().double() for t in parts]) for parts in (one, two))
    return float((a - b).norm() / a.norm())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=DATA, default="cifar10")
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument(
        "--after", type=int, default=0, help="steps on 1 process before the comparison begins"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are compared")
    parser.add_argument("--batch", type=int, default=64, help="images of the global batch")
    parser.add_argument("--precision", choices=("fp32", "fp64"), default="fp32")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    if args.after % args.steps:
        parser.error("--after must be a multiple of --steps")
    last = args.after + args.steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, train, narrow = DATA[args.recipe]
        if source != "digits":
            source = str(args.data / source)
        subprocess.run(
            all4one("data", "build", source, folder / "set"), check=True, stdout=subprocess.DEVNULL
        )
        settings = [
            args.recipe,
            f"data.train={folder}/set{train}",
            "data.validation=null",
            f"run.folder={folder}",
            f"train.global_batch={args.batch}",
            f"train.precision={args.precision}",
            "method.feature_scope=global",
            "method.transformer_dropout=0",
            f"checkpoint.every_steps={args.steps}",
            f"checkpoint.keep_last={last // args.steps + 1}",
            "metrics.tensorboard=false",
            *narrow,
            *args.overrides,
        ]
        one, two = RunFolder(folder / "one"), RunFolder(folder / "two")
        until(last, one, "train", *settings, "run.name=one", "--nproc", 1)
        if args.after:
            until(last, copy_at(one, two.path, args.after), "resume", two.path, "--nproc", 2)
        else:
            until(last, two, "train", *settings, "run.name=two", "--nproc", 2)
        errors = compare(tensors(one, last), tensors(two, last))
    print(
        f"{args.recipe}, 1 process x {args.batch} against 2 x {args.batch // 2}, {args.steps} steps "
        f"after {args.after}, {args.precision}: relative difference"
    )
    for kind, error in errors.items():
        print(f"  {kind:<20} {error:.2e}")
    print(f"tolerance on weights: {TOLERANCE:.0e}")
    if args.json:
        result = {
            "recipe": args.recipe,
            "precision": args.precision,
            "after": args.after,
            "steps": args.steps,
            "batch": args.batch,
            "overrides": args.overrides,
        }
        args.json.write_text(json.dumps(result | {"relative": errors}, indent=2) + "\n")
    return int(not errors["weights"] <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
