"""Does a search find the better half of a known grid with half of its runs?

    python benchmarks/tune.py [--searches N] [--json FILE]

Trains every point of a grid of 16 settings on the bundled digits, with two seeds each. Then it lets the sampler search
that grid with 8 trials, whose results are those of the real runs, and repeats the search with N seeds of the sampler.
Prints how often the best trial of a search lies in the better half of the grid, its mean place in the grid, and how
many of all trials lie in the better half, for `tpe` and for `random`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path

from lost_ranks import build_digits

import all4one
from launch.tuning.search import Asked, Search
from launch.tuning.search_space import read_space
from launch.tuning.trials import Trials
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import append_record, read_evaluations

METRIC = "knn_online"
SPACE = ("optim.lr=0.01,0.1,0.5,3.0", "method.temperature=0.03,0.1,0.3,1.0")
RUN = (
    "backbone.width=16",
    "train.epochs=6",
    "optim.warmup_epochs=1",
    "eval.every_epochs=6",
    "metrics.tensorboard=false",
    "parallel.torch_threads=1",
)
SEEDS = (0, 1)
Point = tuple[str, ...]


def train_grid(folder: Path) -> dict[Point, float]:
    """Train all points. Returns the mean metric of each, by its values in the order of `SPACE`."""
    digits = build_digits(folder)
    sets = (f"data.train={digits}/train", f"data.validation={digits}/validation")
    dimensions = read_space(SPACE)
    found: dict[Point, float] = {}
    for point in product(*(one.choices for one in dimensions)):
        values = []
        for seed in SEEDS:
            name = f"{'_'.join(point)}_{seed}"
            own = [f"{one.key}={value}" for one, value in zip(dimensions, point, strict=True)]
            run = all4one.train(
                "digits_demo",
                [*RUN, *sets, *own, f"run.seed={seed}", f"run.folder={folder}", f"run.name={name}"],
            )
            values.append(read_evaluations(run / "metrics.jsonl")[-1][METRIC])
        found[point] = statistics.mean(values)
        print(f"{' '.join(own)}: {METRIC} {found[point]:.2%}", flush=True)
    return found


def search_grid(folder: Path, grid: dict[Point, float], sampler: str, seed: int) -> list[Point]:
    """Search the grid with half as many trials as it has points. Returns the points that were tried."""
    asked = Asked("digits_demo", (), SPACE, METRIC, sampler, prune=False, seed=seed, trials=len(grid) // 2)
    search, dimensions, tried = Search.begin(folder, asked), read_space(SPACE), list[Point]()
    for number in range(asked.trials):
        trials, run = Trials(search, number), search.trial(number)
        trials.settle()
        point = tuple(one.partition("=")[2] for one in trials.ask(number, dimensions))
        run.path.mkdir()
        append_record(run.metrics, {"kind": "eval", "step": 1, METRIC: grid[point]})
        run.note("end", attempt=1, reason=EndReason.FINISHED)
        tried.append(point)
    return tried


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searches", type=int, default=50, help="searches of each sampler")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as temporary:
        grid = train_grid(Path(temporary))
        places = {point: n for n, point in enumerate(sorted(grid, key=lambda one: -grid[one]), start=1)}
        half = len(grid) // 2
        for sampler in ("tpe", "random"):
            searches = [
                search_grid(Path(temporary) / f"{sampler}_{seed}", grid, sampler, seed)
                for seed in range(args.searches)
            ]
            best = [min(places[point] for point in tried) for tried in searches]
            good = [places[point] <= half for tried in searches for point in tried]
            results[sampler] = {
                "best_in_better_half": sum(place <= half for place in best) / len(best),
                "mean_place_of_best": statistics.mean(best),
                "trials_in_better_half": statistics.mean(good),
            }
            print(
                f"{sampler}: with {half} trials of {len(grid)}, the best trial lies in the better half in "
                f"{sum(place <= half for place in best)} of {len(best)} searches, at place "
                f"{statistics.mean(best):.2f} on average; {statistics.mean(good):.0%} of all trials lie there"
            )
    results["grid"] = {" ".join(point): value for point, value in grid.items()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
