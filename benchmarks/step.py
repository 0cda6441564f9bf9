"""How long one All4One step takes, ours against the published one in plain torch, and what memory it takes.

    python benchmarks/step.py [--cases resnet18@32x64 ...] [--precisions fp32 bf16] [--rounds 3] [--json FILE]

Ours runs through `trainer.engine.deepspeed_engine.Engine`, the published step is `benchmarks/straight.py`. Both run
on 2 threads, in one process, in channels-last memory, with the same weights, the same random batch and a queue of
98,304 keys. Their steps alternate, and a ratio is the median over the rounds of ours to the straight one of the same
round. The backbone's share is timed within the step by hooks: its own forward passes, those of its averaged copy, and
its backward pass, which
begins when the gradient of the features is known and ends with the gradient of its first weight; the rest is all else.

`recompute` is ours with `backbone.activation_checkpointing`. Memory is the resident peak of a second step in bf16 over
what was resident before it, each in a process of its own. Exits with 1 where a figure is missed.
"""

import argparse
import copy
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from step_contenders import AUTOCAST, KINDS, Case, Contender
from torch import Tensor, nn

from trainer.distributed.process_group import initialize

THREADS = 2
CASES = {"resnet18@32x64": 5, "resnet18@32x256": 2, "resnet50@224x16": 1}
"""What is measured by default, with the timed steps of each contender."""
MEMORY_CASES = ("resnet18@32x256",)


MEMORY_PRECISION = "bf16"


def contenders_of(case: Case, precisions: list[str]) -> list[tuple[str, str]]:
    """Kinds with precisions that a case compares; recomputing is for batches that fill the memory."""
    pairs = [(kind, precision) for precision in precisions for kind in ("straight", "ours")]
    if str(case) in MEMORY_CASES and MEMORY_PRECISION in precisions:
        pairs.append(("recompute", MEMORY_PRECISION))
    return pairs


class BackboneClock:
    """Seconds that a model's backbone and its averaged copy take within a step."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._in_backward = False
        for backbone in (model.backbone, model.momentum["backbone"]):
            backbone.register_forward_pre_hook(self._start)
            backbone.register_forward_hook(self._stop)
        first = next(model.backbone.parameters())
        first.register_post_accumulate_grad_hook(self._end_backward)

    def _start(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _stop(self, module: nn.Module, inputs: object, features: Tensor) -> None:
        self.seconds += time.perf_counter() - self._began
        if features.requires_grad:
            features.register_hook(self._begin_backward)

    def _begin_backward(self, gradient: Tensor) -> None:
        # The heads of both views come first: autograd goes back in the order in which operations were recorded.
        if not self._in_backward:
            self._in_backward, self._began = True, time.perf_counter()

    def _end_backward(self, parameter: Tensor) -> None:
        self.seconds += time.perf_counter() - self._began
        self._in_backward = False


def time_case(case: Case, precisions: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each round, of the step and of the part beyond the backbone, by contender (`ours bf16`)."""
    method, batch = case.method(), case.data()
    contenders: dict[str, Contender] = {
        f"{kind} {precision}": KINDS[kind](case, copy.deepcopy(method), precision)
        for kind, precision in contenders_of(case, precisions)
    }
    clocks = {name: BackboneClock(contender.model) for name, contender in contenders.items()}
    step: dict[str, list[float]] = {name: [] for name in contenders}
    rest: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            clocks[name].seconds, began = 0.0, time.perf_counter()
            contender.step(number, batch)
            seconds = time.perf_counter() - began
            if number:  # the first one makes the optimizer's state and the kernels
                step[name].append(seconds)
                rest[name].append(seconds - clocks[name].seconds)
    return {"step": step, "rest": rest}


def peak_bytes(case: Case, precision: str, name: str) -> int:
    """Resident peak of a second step over what was resident before it, in this process."""
    method, batch = case.method(), case.data()
    contender: Contender = KINDS[name](case, method, precision)
    del method
    contender.step(0, batch)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is resident
    contender.step(1, batch)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def measure_memory(case: Case) -> dict[str, list[float]]:
    """Peak bytes by contender, each in a process of its own."""
    peaks = {}
    for kind in KINDS:
        command = [
            sys.executable,
            __file__,
            "--peak",
            kind,
            "--cases",
            str(case),
            "--precisions",
            MEMORY_PRECISION,
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[f"{kind} {MEMORY_PRECISION}"] = [float(done.stdout.split()[-1])]
    return peaks


@dataclass(frozen=True)
class Figure:
    """A ratio to reach, of one contender to another."""

    case: str
    what: str
    left: str
    right: str
    most: float

    def __str__(self) -> str:
        return f"{self.case}: {self.what}, {self.left} / {self.right}"


FIGURES = (
    Figure("resnet18@32x256", "rest", "ours fp32", "straight fp32", 0.6),
    Figure("resnet18@32x256", "rest", "ours bf16", "straight bf16", 0.6),
    Figure("resnet18@32x64", "step", "ours bf16", "straight fp32", 0.53),
    Figure("resnet18@32x64", "step", "ours bf16", "straight bf16", 0.92),
    Figure("resnet18@32x256", "memory", "recompute bf16", "straight bf16", 0.7),
)


def ratios(values: dict[str, list[float]], left: str, right: str) -> list[float]:
    """One contender to another, by rounds."""
    return [a / b for a, b in zip(values[left], values[right], strict=True)]


def show(case: str, results: dict[str, dict[str, list[float]]]) -> None:
    """Print the medians of a case, and the ratios to the straight version with their ranges."""
    print(f"\n{case}")
    for what, unit, scale in (("step", "s", 1.0), ("rest", "s", 1.0), ("memory", "MB", 1e-6)):
        for name, values in results.get(what, {}).items():
            line = f"  {what:<6} {name:<15} {scale * statistics.median(values):9.3f} {unit:<2}"
            kind, precision = name.split()
            if kind != "straight":
                found = ratios(results[what], name, f"straight {precision}")
                line += f"  {statistics.median(found):.3f} of straight"
                line += f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
            print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=[Case.parse(c) for c in CASES])
    parser.add_argument("--precisions", nargs="+", choices=list(AUTOCAST), default=list(AUTOCAST))
    parser.add_argument(
        "--rounds", type=int, help="timed steps of each; by default fewer where they are long"
    )
    parser.add_argument(
        "--json", type=Path, help="file for the results; cases that it has of earlier runs stay"
    )
    parser.add_argument("--peak", choices=list(KINDS), help="print the peak bytes of one step and end")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    join_group_of_one()
    if args.peak:
        print(peak_bytes(args.cases[0], args.precisions[0], args.peak))
        return 0
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for case in args.cases:
        found = time_case(case, args.precisions, args.rounds or CASES.get(str(case), 2))
        if str(case) in MEMORY_CASES and MEMORY_PRECISION in args.precisions:
            found["memory"] = measure_memory(case)
        results[str(case)] = found
        show(str(case), found)
    missed = 0
    print("\nfigures")
    for figure in FIGURES:
        values = results.get(figure.case, {}).get(figure.what, {})
        if figure.left in values and figure.right in values:
            ratio = statistics.median(ratios(values, figure.left, figure.right))
            missed += ratio > figure.most
            print(
                f"  {figure}: {ratio:.3f} (<= {figure.most}){'  <-- missed' if ratio > figure.most else ''}"
            )
    if args.json:
        earlier = json.loads(args.json.read_text())["cases"] if args.json.is_file() else {}
        facts = {"threads": THREADS, "torch": torch.__version__, "cpu": cpu_name()}
        args.json.write_text(json.dumps({**facts, "cases": {**earlier, **results}}, indent=1) + "\n")
    dist.destroy_process_group()
    return int(missed > 0)


def join_group_of_one() -> None:
    """The engine wants a process group; the straight version then gathers over it too, as it would with more."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    initialize()


def cpu_name() -> str:
    """The processor as Linux names it."""
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else "unknown"


if __name__ == "__main__":
    sys.exit(main())
