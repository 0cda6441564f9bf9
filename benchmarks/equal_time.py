"""Does each choice of `neighbor_variants_equal_time` train as long as its steps are worth?

    python benchmarks/equal_time.py [--data FOLDER] [--rounds 5] [--steps 4] [--json FILE]

FOLDER holds `cifar10/train.tar` and `cifar10/test.tar`, tars of JPEG class folders. Without it, ALL4ONE_TEST_DATA
counts. Builds all choices of the study in one process with one thread, and lets them train in turns. The CPU time of a
step counts all threads of the process, also those that read images. Prints the CPU time of a step, its ratio to that of
the published method as the median over rounds, and the CPU time of the choice's whole training relative to the
published one's. Exits with 1 if one of the trainings is more than 10 % longer or shorter.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cifar10_short import find_cifar10, shards
from loop import ALONE

from launch.local.imports import collector_paused

with collector_paused():
    import trainer.profiling.measure  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed, initialize

    import_deepspeed()
    from launch.studies.plan import read_study, runs_of
    from trainer.config.schema import Config
    from trainer.profiling.bench import Bench
    from trainer.profiling.timeline import Timeline
    from trainer.runs.run_folder import create_run
    from trainer.setup import build

STUDY = "neighbor_variants_equal_time"
FIRST = "published"
MOST = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=4, help="of each choice in a round (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    source = find_cifar10(parser, args.data)
    os.environ |= ALONE
    with tempfile.TemporaryDirectory() as folder:
        choices = configs(shards(source, Path(folder)), Path(folder))
        seconds = measure(choices, args.rounds, args.steps)
    found = {name: compare(seconds, choices, name) for name in choices}
    for name, one in found.items():
        print(
            f"{name}: {1000 * one['step_s']:.0f} ms of CPU a step, {one['ratio']:.2f} of {FIRST} "
            f"({one['least']:.2f} to {one['most']:.2f}); {choices[name].train.max_steps} steps take {one['whole']:.2f} "
            f"of its time"
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(abs(one["whole"] - 1) > MOST for one in found.values()))


def configs(sets: list[str], folder: Path) -> dict[str, Config]:
    """Return the configuration of each choice of the study."""
    study = read_study(STUDY)
    runs = runs_of(study, folder / "runs", [*sets, "parallel.torch_threads=1"])
    return {dict(cell.choices)[study.compare]: runs[cell] for cell in runs if cell.seed == study.seeds[0]}


def measure(choices: dict[str, Config], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the CPU seconds of a step of each choice, by round."""
    process = initialize()
    parts = {name: build(config, create_run(config, name), process) for name, config in choices.items()}
    benches = {name: Bench(config, process, parts[name]) for name, config in choices.items()}
    batches = {name: one.loader.batches(0) for name, one in parts.items()}
    timeline = Timeline(process.device)
    found: dict[str, list[float]] = {name: [] for name in choices}
    for number in range(rounds + 1):
        for name, bench in benches.items():
            for _ in range(bench.ahead):  # which the loader made during its rest
                bench.train(batches[name], timeline)
            began = time.process_time()
            for _ in range(steps):
                bench.train(batches[name], timeline)
            if number:  # the first round makes the optimizer's state and the kernels
                found[name].append((time.process_time() - began) / steps)
            bench.rest()
    for one in parts.values():
        one.loader.close()
    return found


def compare(seconds: dict[str, list[float]], choices: dict[str, Config], name: str) -> dict[str, float]:
    """Compare the CPU time of a choice with that of the published method, by rounds."""
    ratios = [own / first for own, first in zip(seconds[name], seconds[FIRST], strict=True)]
    own_steps, first_steps = choices[name].train.max_steps, choices[FIRST].train.max_steps
    assert own_steps is not None
    assert first_steps is not None
    ratio = statistics.median(ratios)
    return {
        "step_s": statistics.median(seconds[name]),
        "ratio": ratio,
        "least": min(ratios),
        "most": max(ratios),
        "whole": ratio * own_steps / first_steps,
    }


if __name__ == "__main__":
    sys.exit(main())
