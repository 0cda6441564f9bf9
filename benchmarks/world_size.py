"""The same global batches on 1 process and on 2: how far apart are the weights?

    python benchmarks/world_size.py [--after 200] [--steps 20] [--batch 64] [KEY=VALUE ...]

Trains the digits recipe in fp32 on 1 process, goes on from its checkpoint of step `after`, the middle of its schedule,
on 2 processes, and compares both `steps` later. Batch norm and the feature contrast span all ranks, and the
transformer has no dropout, since its masks are drawn for each rank. Prints the relative difference (norm of the
difference over the norm) of all weights, momentum copies, running statistics and queue rows, each as one vector; exits
with 1 where that of the weights is above 1e-4.

With `--after 0` both start untrained. Then the embeddings of all images nearly coincide, rounding decides which rows
of the queue are the nearest, and the runs part within a few steps; `benchmarks/golden.py --nproc 2` shows in float64
that the step itself is the same.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from trainer.checkpoint import CheckpointStore
from trainer.run import RunFolder

TOLERANCE = 1e-4
Tensors = dict[str, torch.Tensor]


def all4one(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "launch.cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def on_two(one: RunFolder, folder: Path, after: int) -> RunFolder:
    """A copy of a run as it was at a step, gone on with on 2 processes."""
    two = RunFolder(folder)
    shutil.copytree(one.path, two.path)
    two.ledger.unlink()
    for path in two.checkpoints.glob("step_*"):
        if path.name != f"step_{after:08d}":
            shutil.rmtree(path)
    all4one("resume", two.path, "--nproc", 2)
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
    parser.add_argument(
        "--after", type=int, default=200, help="steps on 1 process before the comparison begins"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are compared")
    parser.add_argument("--batch", type=int, default=64, help="images of the global batch")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    if args.after % args.steps:
        parser.error("--after must be a multiple of --steps")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all4one("data", "build", "digits", folder / "digits")
        total = 2 * args.after or args.steps
        settings = [
            "digits_demo", f"data.train={folder}/digits/train", "data.validation=null", f"run.folder={folder}",
            f"train.global_batch={args.batch}", f"train.max_steps={total}", "train.precision=fp32",
            "method.feature_scope=global", "method.transformer_dropout=0", f"checkpoint.every_steps={args.steps}",
            "checkpoint.keep_last=1000", "metrics.tensorboard=false",
            *([] if args.after else ["optim.warmup_epochs=0"]), *args.overrides,
        ]  # fmt: skip
        all4one("train", *settings, "run.name=one", "--nproc", 1)
        one = RunFolder(folder / "one")
        if args.after:
            two = on_two(one, folder / "two", args.after)
        else:
            all4one("train", *settings, "run.name=two", "--nproc", 2)
            two = RunFolder(folder / "two")
        errors = compare(tensors(one, args.after + args.steps), tensors(two, args.after + args.steps))
    print(
        f"1 process x {args.batch} against 2 x {args.batch // 2}, {args.steps} steps after {args.after}, fp32: "
        "relative difference"
    )
    for kind, error in errors.items():
        print(f"  {kind:<20} {error:.2e}")
    print(f"tolerance on weights: {TOLERANCE:.0e}")
    if args.json:
        result = {"after": args.after, "steps": args.steps, "batch": args.batch, "overrides": args.overrides}
        args.json.write_text(json.dumps(result | {"relative": errors}, indent=2) + "\n")
    return int(not errors["weights"] <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
