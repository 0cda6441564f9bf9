"""The same global batches on 1 process and on 2: how far apart are the weights?

    python benchmarks/world_size.py [--steps 20] [--batch 64]

Trains the digits recipe twice in fp32: batch norm and the feature contrast
span all ranks, and the transformer's dropout is off, since its masks are drawn for each rank. Prints the largest
relative difference over all named tensors (norm of the difference over the norm); exits with 1 above 1e-4.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from trainer.checkpoint import CheckpointStore

Tensors = dict[str, torch.Tensor]

TOLERANCE = 1e-4


def train(folder: Path, data: Path, nproc: int, steps: int, batch: int, overrides: list[str]) -> Tensors:
    """Weights, momentum copies, buffers and queue after some steps."""
    arguments = [
        f"data.train={data}/train", "data.validation=null", f"train.global_batch={batch}", f"train.max_steps={steps}",
        "train.precision=fp32", "method.feature_scope=global", "method.transformer_dropout=0", "optim.warmup_epochs=0",
        "metrics.tensorboard=false", f"run.folder={folder}", f"run.name=nproc{nproc}", *overrides,
    ]  # fmt: skip
    command = [sys.executable, "-m", "launch.cli", "train", "digits_demo", *arguments, "--nproc", str(nproc)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    loaded = CheckpointStore(
        folder / f"nproc{nproc}" / "checkpoints", attempt=0, keep_last=1, keep_every=0
    ).load_newest()
    assert loaded is not None
    return loaded.snapshot.model


def compare(one: Tensors, two: Tensors) -> list[tuple[float, str]]:
    """Relative difference of every floating tensor, largest first; others must be equal."""
    errors = []
    for name, tensor in one.items():
        other = two[name]
        if tensor.is_floating_point():
            errors.append((float((tensor - other).norm() / tensor.norm().clamp_min(1e-12)), name))
        elif not torch.equal(tensor, other):
            errors.append((float("inf"), name))
    return sorted(errors, reverse=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64, help="images of the global batch")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "launch.cli", "data", "build", "digits", str(folder / "digits")],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        one, two = (
            train(folder, folder / "digits", nproc, args.steps, args.batch, args.overrides)
            for nproc in (1, 2)
        )
    errors = compare(one, two)
    print(
        f"1 process x {args.batch} against 2 x {args.batch // 2}, {args.steps} steps, fp32, {len(errors)} tensors"
    )
    for error, tensor in errors[:5]:
        print(f"  {tensor:<50} {error:.2e}")
    worst = errors[0][0]
    print(f"largest relative difference: {worst:.2e} (tolerance {TOLERANCE:.0e})")
    if args.json:
        args.json.write_text(
            json.dumps({"steps": args.steps, "batch": args.batch, "worst": worst}, indent=2) + "\n"
        )
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
