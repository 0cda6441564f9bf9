"""What two augmented views of an image cost: ours against other pipelines and against the bare decode.

    python benchmarks/data_throughput.py [--data FOLDER] [--rounds 3] [--json FILE] [--plot FILE]

FOLDER holds `imagenet1k-sample/ILSVRC2012_img_train.tar` and `cifar10/test.tar`; without it ALL4ONE_TEST_DATA is
looked at. All pipelines make the same views, with color, blur and solarization at 224 pixels and without blur at 32,
normalized, in batches:

    opencv    our loader, executor opencv          torchvision   webdataset, PIL and torchvision v2 in a DataLoader
    dali      our loader, executor dali            dali reader   DALI's webdataset reader and its random operators
    decode    the bound: our shards read and decoded by libjpeg-turbo, nothing else

Every measurement is a process of its own with `--threads` threads or workers. Their turns alternate, and each figure is
the median of the rounds. CPU time is user and system of the whole process tree, from a batch after the start to the
last one. Exits with 1 where a figure is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from throughput_pipelines import dali_reader, torchvision_pipeline

from data_pipelines.imaging.images import decode_rgb
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet

RECIPES = {
    224: (ViewSettings(size=224, blur_prob=1.0), ViewSettings(size=224, blur_prob=0.1, solarize_prob=0.2)),
    32: (ViewSettings(size=32), ViewSettings(size=32, solarize_prob=0.2)),
}
IMAGES = {224: 1024, 32: 16_384}  # of one measurement, for ours; slower pipelines get a part of it
BATCH = {224: 64, 32: 256}
PART = {"opencv": 1.0, "decode": 1.0, "dali": 0.5, "dali reader": 0.5, "torchvision": 0.5}


class Figure(NamedTuple):
    """A ratio that is to be reached."""

    size: int
    what: str
    one: str
    other: str
    value: str
    bound: float
    at_most: bool


FIGURES = (
    Figure(224, "opencv / torchvision", "opencv", "torchvision", "cpu_ms", 0.15, True),
    Figure(224, "opencv / DALI's reader", "opencv", "dali reader", "cpu_ms", 0.38, True),
    Figure(224, "opencv / bare decode", "opencv", "decode", "cpu_ms", 1.8, True),
    Figure(224, "dali / DALI's reader", "dali", "dali reader", "cpu_ms", 1.0, True),
    Figure(224, "opencv, 2 threads / 1", "opencv", "opencv 1 thread", "images_per_second", 1.8, False),
    Figure(32, "opencv / torchvision", "opencv", "torchvision", "images_per_second", 6.0, False),
)


def ours(executor: str, folder: Path, size: int, threads: int) -> Iterator[int]:
    settings = DataSettings.model_validate(
        {"executor": executor, "threads": threads, "views": RECIPES[size], "eval_resize": size}
    )
    with TrainLoader(
        ShardSet.open(folder),
        settings,
        seed=0,
        rank=0,
        world_size=1,
        global_batch=BATCH[size],
        device=torch.device("cpu"),
    ) as loader:
        for batch in loader.batches(0):
            yield len(batch.ids)


def decode(folder: Path, size: int, threads: int) -> Iterator[int]:
    shards = ShardSet.open(folder)

    def work(sample: int) -> None:
        decode_rgb(shards.read(sample))

    with ThreadPoolExecutor(threads) as pool:
        while True:
            for start in range(0, len(shards) - BATCH[size] + 1, BATCH[size]):
                yield len(list(pool.map(work, range(start, start + BATCH[size]))))


PIPELINES: dict[str, Callable[[Path, int, int], Iterator[int]]] = {
    "opencv": lambda folder, size, threads: ours("opencv", folder, size, threads),
    "dali": lambda folder, size, threads: ours("dali", folder, size, threads),
    "dali reader": lambda folder, size, threads: dali_reader(folder, RECIPES[size], BATCH[size], threads),
    "torchvision": lambda folder, size, threads: torchvision_pipeline(
        folder, RECIPES[size], BATCH[size], threads
    ),
    "decode": decode,
}


def measure(name: str, folder: Path, size: int, threads: int) -> dict[str, float]:
    """One measurement, in this process and its children."""
    torch.set_num_threads(1)
    batches = max(4, round(IMAGES[size] * PART[name] / BATCH[size]))
    iterator = PIPELINES[name](folder, size, threads)
    for _ in islice(iterator, 3):  # started, and as far ahead as it goes
        pass
    cpu, began = cpu_seconds(), time.perf_counter()
    images = sum(islice(iterator, batches))
    wall, used = time.perf_counter() - began, cpu_seconds() - cpu
    return {"cpu_ms": 1000 * used / images, "images_per_second": images / wall, "memory_mb": memory() / 2**20}


def tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def cpu_seconds() -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in tree()))


def memory() -> int:
    """Bytes that the tree holds, shared pages counted once."""
    return sum(process.memory_full_info().pss for process in tree())


def build(source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "launch.cli", "data", "build", str(source), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_turns(
    folders: dict[int, Path], rounds: int, threads: int
) -> dict[int, dict[str, list[dict[str, float]]]]:
    """Measurements by size and variant, one of each in every round."""
    results: dict[int, dict[str, list[dict[str, float]]]] = {size: {} for size in folders}
    for number in range(rounds):
        for size, folder in folders.items():
            for name, count in [*((name, threads) for name in PIPELINES), ("opencv", 1)]:
                label = name if count == threads else f"{name} 1 thread"
                command = [sys.executable, __file__, "--measure", name, str(folder), str(size), str(count)]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[size].setdefault(label, []).append(json.loads(out.splitlines()[-1]))
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr)
    return results


def median(measured: list[dict[str, float]], value: str) -> float:
    return statistics.median(entry[value] for entry in measured)


def print_table(size: int, results: dict[str, list[dict[str, float]]]) -> None:
    print(f"\ntwo views of {size} pixels: median of the rounds (lowest to highest)")
    print(f"{'':<18}{'CPU ms/image':>24}{'images/s':>12}{'MB':>8}")
    for name, measured in results.items():
        cpu = [entry["cpu_ms"] for entry in measured]
        spread = f"{statistics.median(cpu):.3f} ({min(cpu):.3f} to {max(cpu):.3f})"
        speed, held = median(measured, "images_per_second"), median(measured, "memory_mb")
        print(f"{name:<18}{spread:>24}{speed:>12,.0f}{held:>8,.0f}")


def check(results: dict[int, dict[str, list[dict[str, float]]]]) -> list[dict[str, Any]]:
    """The figures, each with its ratio: the median over the rounds of the ratio within a round."""
    figures = []
    print(f"\n{'ratio':<36}{'median':>9}{'wanted':>10}")
    for figure in FIGURES:
        one, other = (results[figure.size][name] for name in (figure.one, figure.other))
        ratio = statistics.median(a[figure.value] / b[figure.value] for a, b in zip(one, other, strict=True))
        reached = ratio <= figure.bound if figure.at_most else ratio >= figure.bound
        sign = "<=" if figure.at_most else ">="
        print(
            f"{figure.size:>3} px, {figure.what:<28}{ratio:>9.3f}{sign + f' {figure.bound:g}':>10}"
            f"{'' if reached else '  MISSED'}"
        )
        figures.append(
            {
                "size": figure.size,
                "what": figure.what,
                "ratio": ratio,
                "bound": figure.bound,
                "reached": reached,
            }
        )
    return figures


def plot(results: dict[int, dict[str, list[dict[str, float]]]], path: Path) -> None:
    """Bars of CPU time by pipeline, one panel a size, with the range over the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(10, 3.2), layout="constrained")
    for axis, (size, by_name) in zip(axes, results.items(), strict=True):
        names = [name for name in PIPELINES if name in by_name][::-1]
        values = [[entry["cpu_ms"] for entry in by_name[name]] for name in names]
        middle = [statistics.median(v) for v in values]
        around = [[m - min(v), max(v) - m] for m, v in zip(middle, values, strict=True)]
        colors = ["#1f77b4" if name in ("opencv", "dali") else "#b0b0b0" for name in names]
        axis.barh(names, middle, xerr=list(zip(*around, strict=True)), color=colors, capsize=3)
        for row, value in enumerate(middle):
            axis.annotate(
                f"{value:.2f}", (value, row), xytext=(6, 4), textcoords="offset points", va="bottom"
            )
        axis.set(title=f"two views of {size} pixels", xlabel="CPU ms an image")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for a picture of them")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, folder, size, threads = args.measure
        print(json.dumps(measure(name, Path(folder), int(size), int(threads))))
        return 0
    sources = {
        224: args.data / "imagenet1k-sample/ILSVRC2012_img_train.tar",
        32: args.data / "cifar10/test.tar",
    }
    for source in sources.values():
        if not source.is_file():
            parser.error(f"{source} is not there: name the folder of the images with --data")
    with tempfile.TemporaryDirectory() as name:
        folders = {size: Path(name) / str(size) for size in sources}
        for size, folder in folders.items():
            build(sources[size], folder)
        results = in_turns(folders, args.rounds, args.threads)
    for size in results:
        print_table(size, results[size])
    figures = check(results)
    if args.json:
        args.json.write_text(json.dumps({"measurements": results, "figures": figures}, indent=1) + "\n")
    if args.plot:
        plot(results, args.plot)
    return int(not all(figure["reached"] for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
