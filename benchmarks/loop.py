"""How much slower are steps that read their images than steps on images that are in memory?

    python benchmarks/loop.py [--data FOLDER] [--rounds 10] [--steps 10] [--json FILE] [KEY=VALUE ...]

FOLDER holds `cifar10/train.tar` and `cifar10/test.tar`, tars of JPEG class folders. Without it, ALL4ONE_TEST_DATA
counts. Builds the recipe `cifar10_short` in one process and takes turns: some steps as in a run, whose images are read,
decoded and augmented meanwhile, and some steps that repeat one batch while the loader rests. Each turn begins with
steps that use up what the loader made during its rest. Prints both times and their ratio, as the median over rounds.
Exits with 1 if the ratio is above 1.05.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from cifar10_short import find_cifar10, shards

from launch.local.imports import collector_paused

with collector_paused():
    import trainer.profiling.measure  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed, initialize

    import_deepspeed()
    from trainer.config.schema import load_config
    from trainer.profiling.bench import Bench
    from trainer.profiling.instruments import WAIT
    from trainer.profiling.timeline import Timeline
    from trainer.runs.run_folder import create_run
    from trainer.setup import build

MOST = 1.05
ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
}
"""The environment of a process that is a process group of its own."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("ALL4ONE_TEST_DATA", "../shared/data"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--steps", type=int, default=10, help="of each kind in a round (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    source = find_cifar10(parser, args.data)
    os.environ |= ALONE
    with tempfile.TemporaryDirectory() as folder:
        settings = [*shards(source, Path(folder)), f"run.folder={folder}", *args.overrides]
        found = measure(settings, args.rounds, args.steps)
    ratios = [loop / memory for loop, memory in zip(found["loop"], found["in memory"], strict=True)]
    ratio = statistics.median(ratios)
    for name in ("loop", "in memory"):
        print(f"{name}: {1000 * statistics.median(found[name]):.0f} ms a step")
    print(f"data wait: {100 * statistics.median(found['data wait']):.1f} % of a step")
    print(f"loop / in memory: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}; <= {MOST})")
    if args.json:
        args.json.write_text(json.dumps({**found, "ratio": ratio}, indent=1) + "\n")
    return int(ratio > MOST)


def measure(settings: list[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return seconds of a step of each kind, and the share of a step that waits for data, by round."""
    config = load_config("cifar10_short", settings)
    run, process = create_run(config, "loop"), initialize()
    parts = build(config, run, process)
    timeline, bench = Timeline(process.device), Bench(config, process, parts)
    found: dict[str, list[float]] = {"loop": [], "in memory": [], "data wait": []}
    iterator = parts.loader.batches(0)
    batch = bench.train(iterator, timeline)
    bench.repeat(batch, timeline)
    for _ in range(rounds):
        for _ in range(bench.ahead):
            bench.train(iterator, timeline)
        with timeline.recording():
            seconds = bench.timed(lambda: bench.train(iterator, timeline), steps)
        waits = [span.end - span.start for span in timeline.take() if span.name == WAIT]
        found["loop"].append(seconds)
        found["data wait"].append(sum(waits) / steps / seconds)
        bench.rest()
        bench.repeat(batch, timeline)
        found["in memory"].append(bench.timed(lambda: bench.repeat(batch, timeline), steps))
    parts.loader.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
