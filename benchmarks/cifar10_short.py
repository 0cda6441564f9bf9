"""What two CPU cores learn of CIFAR-10 in twenty minutes: kNN of the untrained and of the trained backbone.

    python benchmarks/cifar10_short.py [--data FOLDER] [KEY=VALUE ...]

FOLDER holds `cifar10/train.tar` and `cifar10/test.tar`, tars of JPEG class folders; without it ALL4ONE_TEST_DATA is
looked at. Trains the recipe `cifar10_short` and prints kNN top-1 on the 10,000 test images before and after, the curve,
images a second, and the share of time spent waiting for data. Training time excludes the evaluations.
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

from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

POINTS = 20.0  # that kNN must gain
MINUTES = 20.0  # that training may take


def find_cifar10(parser: argparse.ArgumentParser, data: str | Path) -> Path:
    """Return the folder of CIFAR-10's tars in `--data`, or end with a message that it is not there."""
    source = Path(data) / "cifar10"
    if not (source / "train.tar").is_file():
        parser.error(f"{source}/train.tar is not there: name the folder of the images with --data")
    return source


def shards(source: Path, folder: Path) -> list[str]:
    """Build both sets; the settings that name them."""
    for tar, name in (("train.tar", "train"), ("test.tar", "validation")):
        command = [sys.executable, "-m", "launch.cli", "data", "build", str(source / tar), str(folder / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [f"data.train={folder}/train", f"data.validation={folder}/validation"]


def seconds_of_training(train: list[dict[str, Any]]) -> float:
    """Time of all steps, from the speed between records."""
    seconds, before = 0.0, 0
    for record in train:
        seconds += (record["step"] - before) * record["batch"] / record["time"]["images_per_second"]
        before = record["step"]
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    source = find_cifar10(parser, args.data)
    with tempfile.TemporaryDirectory() as name:
        settings = [*shards(source, Path(name)), f"run.folder={name}", "run.name=run", *args.overrides]
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "launch.cli",
            "train",
            "cifar10_short",
            *settings,
            "--nproc",
            str(args.nproc),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = (time.perf_counter() - start) / 60
        run = RunFolder(Path(name) / "run")
        batch = run.read_config().train.global_batch
        records = read_records(run.metrics)
    train = [r | {"batch": batch} for r in records if r["kind"] == "train"]
    curve = [
        (r["epoch"], 100 * r["knn_online"], 100 * r["knn_momentum"]) for r in records if r["kind"] == "eval"
    ]
    minutes = seconds_of_training(train) / 60
    speed = statistics.median(r["time"]["images_per_second"] for r in train)
    waiting = statistics.mean(r["time"]["data_wait"] for r in train)
    before, after = curve[0][1], curve[-1][1]
    print("epoch   loss    kNN online   kNN momentum")
    for epoch, online, momentum in curve:
        loss = min((r for r in train), key=lambda r: abs(r["epoch"] - epoch))["loss"]
        print(f"{epoch:5.1f}  {loss:6.3f}  {online:8.2f} %   {momentum:8.2f} %")
    print(
        f"kNN top-1 before {before:.2f} %, after {after:.2f} %: {after - before:+.2f} points (figure: {POINTS:+.0f})"
    )
    print(f"training {minutes:.1f} min (figure: {MINUTES:.0f}), with evaluations {wall:.1f} min")
    print(f"{speed:.0f} images/s, {100 * waiting:.2f} % of the time waiting for data")
    if args.json:
        result = {
            "before": before,
            "after": after,
            "minutes": minutes,
            "wall_minutes": wall,
            "images_per_second": speed,
            "data_wait": waiting,
            "curve": curve,
            "overrides": args.overrides,
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(after - before < POINTS or minutes > MINUTES)


if __name__ == "__main__":
    sys.exit(main())
