"""The same global batches on 1 process and on 2: how far apart are the weights?

    python benchmarks/world_size.py [--steps 20] [--batch 64] [KEY=VALUE ...]

Trains the digits recipe twice in fp32 with LARS at a rate of its published warm-up. Batch norm and the feature contrast
span all ranks, and the transformer has no dropout, since its masks are drawn for each rank. Prints the relative
difference (norm of the difference over the norm) of all weights, momentum copies, running statistics and queue rows,
each as one vector; exits with 1 where that of the weights is above 1e-4. The rounding of fp32 alone moves single
gradients by 1e-3 here: the golden test in float64 is the sharper one (`benchmarks/golden.py --nproc 2`).
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
        "metrics.tensorboard=false", "optim.name=lars", "optim.lr=0.04",
        f"run.folder={folder}", f"run.name=nproc{nproc}", *overrides,
    ]  # fmt: skip
    command = [sys.executable, "-m", "launch.cli", "train", "digits_demo", *arguments, "--nproc", str(nproc)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    loaded = CheckpointStore(
        folder / f"nproc{nproc}" / "checkpoints", attempt=0, keep_last=1, keep_every=0
    ).load_newest()
    assert loaded is not None
    return loaded.snapshot.model


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
    return {
        kind: _relative([one[n] for n in names], [two[n] for n in names]) for kind, names in kinds.items()
    }


def _relative(one: list[torch.Tensor], two: list[torch.Tensor]) -> float:
    a, b = (torch.cat([t.flatten().double() for t in tensors]) for tensors in (one, two))
    return float((a - b).norm() / a.norm())


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
        f"1 process x {args.batch} against 2 x {args.batch // 2}, {args.steps} steps, fp32: relative difference"
    )
    for kind, error in errors.items():
        print(f"  {kind:<20} {error:.2e}")
    print(f"tolerance on weights: {TOLERANCE:.0e}")
    if args.json:
        result = {"steps": args.steps, "batch": args.batch, "overrides": args.overrides, "relative": errors}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(not errors["weights"] <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
