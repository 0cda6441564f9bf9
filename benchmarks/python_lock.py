"""What the loader's threads cost a thread that launches kernels, by holding Python's lock.

    python benchmarks/python_lock.py [--launches 1849] [--images 256] [--step-ms 100.0] [--rounds 5] [--json FILE]

A GPU's step is a Python thread that launches kernels. Here a thread on the CPU stands for it, which makes tiny calls of
torch without a pause. It runs beside the loader, which makes two views of 224 px with one thread as fast as it can:
once in another process, which takes the same cores, and once in this one, which also shares the lock. What the second
takes longer for as many calls, divided by the images made meanwhile, is the time for which an image holds the lock.
Turns alternate, and figures are medians.

The defaults are the step of `all4one profile imagenet_resnet50 --dry-run`. The host keeps up with the GPU if the
launches of a step (6 us each) and the lock of its images take less time than the step. Exits with 1 if they do not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
import torch
from PIL import Image, ImageFilter

from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet
from launch.local.rank_processes import module_command

BATCH, IMAGES = 32, 64
LAUNCH_S = 6e-6
CALLS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launches", type=int, default=1849)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        with busy_loader(ShardSet.open(args.load)):
            time.sleep(600)
    torch.set_num_threads(1)
    slower, holds = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        shards = data_set(Path(name))
        for _ in range(args.rounds):
            with loader_elsewhere(shards):
                plain = call()
            with busy_loader(shards) as made:
                before = made()
                beside = call()
                images = made() - before
            slower.append(beside / plain)
            holds.append((beside - plain) / images)
            print(
                f"{slower[-1]:.2f} times the seconds, {images / beside:.0f} images/s, {1e6 * holds[-1]:.0f} us an image"
            )
    launching, held = 1000 * args.launches * LAUNCH_S, 1000 * args.images * statistics.median(holds)
    print(f"an image holds the lock for {1e6 * statistics.median(holds):.0f} us")
    print(
        f"{args.launches} launches take {launching:.1f} ms, and the lock of {args.images} images {held:.1f} ms:"
    )
    print(f"{(launching + held) / args.step_ms:.0%} of a step of {args.step_ms} ms")
    if args.json:
        args.json.write_text(json.dumps({"slower": slower, "lock_seconds_of_an_image": holds}, indent=1))
    return int(launching + held > args.step_ms)


def call() -> float:
    """Return the seconds of many tiny calls, each of which needs Python's lock as a launch does."""
    a = torch.zeros(16)
    began = time.perf_counter()
    for _ in range(CALLS):
        torch.add(a, a, out=a)
    return time.perf_counter() - began


@contextmanager
def loader_elsewhere(shards: ShardSet) -> Iterator[None]:
    """Load in another process."""
    program = subprocess.Popen([sys.executable, __file__, "--load", str(shards.folder)])
    time.sleep(8)  # it imports torch first
    try:
        yield
    finally:
        program.kill()
        program.wait()


@contextmanager
def busy_loader(shards: ShardSet) -> Iterator[Callable[[], int]]:
    """Load in this process, in threads. The context is a function that returns the number of images so far."""
    settings = DataSettings(
        executor="opencv",
        decode_threads=1,
        views=(ViewSettings(size=224, blur_prob=1), ViewSettings(size=224)),
    )
    cpu, end, made = torch.device("cpu"), Event(), 0
    loader = TrainLoader(shards, settings, seed=0, rank=0, world_size=1, global_batch=BATCH, device=cpu)

    def consume() -> None:
        nonlocal made
        for batch in loader.batches(0):
            made += len(batch.ids)
            if end.is_set():
                return

    with loader:
        consumer = Thread(target=consume)
        consumer.start()
        time.sleep(1)
        try:
            yield lambda: made
        finally:
            end.set()
            consumer.join()


def data_set(folder: Path) -> ShardSet:
    """Make a set of JPEGs of 500 x 375 px from blurred noise, which is about as large a file as a photograph."""
    noise = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / "images" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(noise.integers(0, 256, (375, 500, 3), np.uint8))
        pixels.filter(ImageFilter.GaussianBlur(1)).save(path, quality=90)
    command = module_command("launch.cli", "data", "build", str(folder / "images"), str(folder / "set"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return ShardSet.open(folder / "set")


if __name__ == "__main__":
    sys.exit(main())
