"""Predicts a step on 8 to 2,048 GPUs, message by message, from a profile of a few processes.

    python benchmarks/scale_model.py PROFILE [--rows 64] [--tflops 70] [--jitter 0.02] [--png FILE] [--json FILE]
                                     [--gpus-a-machine 8] [--latency-inside 2.5e-6] [--bandwidth-inside 300e9]
                                     [--latency-between 5e-6] [--bandwidth-between 45e9]

PROFILE is what `all4one profile RECIPE --nproc 2` wrote: the messages are counted there, and their sizes are those
of the model, whatever the machine. What the machine computes in a step is the profile's own time, or its operations at
the speed that --tflops names. The network's defaults are those of a machine of 8 H100 with NVLink and a 400 Gb/s link
for each GPU. The model is in `scaling.py`; `scale_check.py` holds it to measured steps.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from scaling import COMPUTE, Network, Step, efficiency, predict

from launch.figures import drawn

RANKS = tuple(2**n for n in range(3, 12))
SETTINGS: dict[str, dict[str, Any]] = {
    "batch norm over all": {},
    "batch norm in groups of 8": {"group": 8},
    "groups of 8, gradients in bf16": {"group": 8, "half": True},
    "no batch norm across ranks": {"group": 1},
}


def table(step: Step, network: Network, options: dict[str, Any]) -> dict[int, dict[str, float]]:
    return {ranks: predict(step, network, ranks, **options) for ranks in RANKS}


def show(name: str, step: Step, predicted: dict[int, dict[str, float]]) -> None:
    kinds = sorted({kind for seconds in predicted.values() for kind in seconds} - {COMPUTE})
    print(
        f"\n{name}\n  {'GPUs':>5} {'step, ms':>9} {'efficiency':>10}   "
        + " ".join(f"{k:>11}" for k in kinds)
        + "  ms"
    )
    for ranks, seconds in predicted.items():
        parts = " ".join(f"{1000 * seconds.get(kind, 0):11.2f}" for kind in kinds)
        share = 100 * efficiency(step, seconds)
        print(f"  {ranks:5} {1000 * sum(seconds.values()):9.1f} {share:8.1f} %   {parts}")


def draw(step: Step, tables: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    with drawn(path, 1, 2, figsize=(11, 4)) as (line, bars):
        for name, predicted in tables.items():
            line.plot(
                list(predicted), [100 * efficiency(step, s) for s in predicted.values()], "o-", label=name
            )
        line.set(xscale="log", xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 102))
        line.set_xticks(RANKS, [str(r) for r in RANKS])
        line.minorticks_off()
        line.legend(frameon=False, loc="lower left")
        line.set_title(
            f"{step.rows:.0f} images a GPU, {1000 * step.compute:.0f} ms of computing a step", fontsize=10
        )
        first = next(iter(tables))
        bottom = [0.0] * len(RANKS)
        for kind in sorted({kind for seconds in tables[first].values() for kind in seconds} - {COMPUTE}):
            heights = [1000 * seconds.get(kind, 0.0) for seconds in tables[first].values()]
            bars.bar([str(r) for r in RANKS], heights, bottom=bottom, label=kind)
            bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
        bars.set(xlabel="GPUs", ylabel="ms a step beside computing")
        bars.legend(frameon=False)
        bars.set_title(f"what is lost with {first}", fontsize=10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", type=Path)
    parser.add_argument("--rows", type=float, default=0, help="images of a GPU; 0: as in the profile")
    parser.add_argument(
        "--tflops", type=float, default=0, help="what a GPU does of them; 0: as in the profile"
    )
    parser.add_argument(
        "--jitter", type=float, default=-1, help="deviation of steps, as a share; else the profile's"
    )
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--gpus-a-machine", type=int, default=8)
    parser.add_argument("--latency-inside", type=float, default=2.5e-6, help="seconds")
    parser.add_argument("--bandwidth-inside", type=float, default=300e9, help="bytes a second of a GPU")
    parser.add_argument("--latency-between", type=float, default=5e-6, help="seconds")
    parser.add_argument("--bandwidth-between", type=float, default=45e9, help="bytes a second of a GPU")
    parser.add_argument("--png", type=Path, help="file for the picture")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    try:
        profile = json.loads(args.profile.read_text())
        step = Step.of(
            profile,
            embedding=args.embedding,
            rows=args.rows,
            speed=1e12 * args.tflops,
            jitter=args.jitter,
        )
    except (OSError, ValueError, KeyError) as error:
        sys.exit(
            f"error: {args.profile} is not a profile ({error}): make one by `all4one profile RECIPE --nproc 2`"
        )
    if step.ranks < 2:
        sys.exit(f"error: {args.profile} is of one process, which sends nothing: profile with --nproc 2")
    network = Network(
        args.gpus_a_machine,
        args.latency_inside,
        args.bandwidth_inside,
        args.latency_between,
        args.bandwidth_between,
    )
    tables = {name: table(step, network, options) for name, options in SETTINGS.items()}
    print(
        f"{step.rows:.0f} images a GPU, {step.flops / 1e12:.2f} TFLOP a step in {1000 * step.compute:.1f} ms alone"
    )
    for name, predicted in tables.items():
        show(name, step, predicted)
    if args.png:
        draw(step, tables, args.png)
    if args.json:
        args.json.write_text(json.dumps({"network": vars(network), "seconds": tables}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
