"""What a comparison of the ranks' state costs on the CPU: ResNet-50 with its optimizer, EMA encoder and queue.

    python benchmarks/replica_check.py [--recipe imagenet_resnet50] [--every 200] [--step 151] [--json FILE]

The state is that of one rank after one update. Prints the seconds of a comparison, with its result read at once, and
the bytes that it reads per second. What it adds to steps depends on their time: `--step` is that of this CPU at batch
256 by `checkpoint_stall.py`. What a GPU would take is computed by tests/gpu/dry/test_other_steps.py. Exits with 1 where
a comparison every `--every` steps adds more than 0.5 % to them.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from trainer.config.schema import load_config
from trainer.engine.optimizer_state import optimizer_tensors
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.engine.replicas import Comparison, Replicas, StateKind, replicas_of
from trainer.runs.components import build_method

CLASSES, MOST = 1000, 0.005
CPU = torch.device("cpu")


def state_of(recipe: str) -> Replicas:
    """Return the state of a recipe's method after one update by its optimizer."""
    config = load_config(recipe, ["train.precision=bf16"])
    method = build_method(config, CLASSES, CPU).to(memory_format=torch.channels_last)
    groups = parameter_groups(method.named_parameters(), config.optim, config.train.global_batch)
    optimizer = build_optimizer(groups, config.optim)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    optimizer.step()
    return replicas_of(method, optimizer_tensors(optimizer, method.named_parameters()))


def seconds(state: Replicas, kinds: tuple[StateKind, ...], repeats: int) -> float:
    """Return the median time of a comparison with its result, seconds."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        Comparison(state, kinds, CPU).difference()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def size(state: Replicas, kinds: tuple[StateKind, ...]) -> int:
    """Return the bytes of the kinds of state."""
    return sum(t.numel() * t.element_size() for kind in kinds for t in state[kind].values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="imagenet_resnet50")
    parser.add_argument("--every", type=int, default=200, help="steps between comparisons")
    parser.add_argument("--step", type=float, default=151, help="seconds of a step")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    state = state_of(args.recipe)
    result: dict[str, object] = {"recipe": args.recipe, "threads": args.threads, "every": args.every}
    print(f"{args.recipe}, {args.threads} thread{'s' * (args.threads > 1)} of a CPU")
    for name, kinds in [*((str(kind), (kind,)) for kind in StateKind), ("all", tuple(StateKind))]:
        took, of_bytes = seconds(state, kinds, args.repeats), size(state, kinds)
        tensors = sum(len(state[kind]) for kind in kinds)
        result[name] = {"seconds": took, "bytes": of_bytes, "tensors": tensors}
        print(
            f"  {name:36} {tensors:4} tensors {of_bytes / 1e6:7.1f} MB {took:7.4f} s {of_bytes / took / 1e9:5.1f} GB/s"
        )
    part = took / args.every / args.step
    result["step"], result["part_of_steps"] = args.step, part
    print(f"every {args.every} steps of {args.step:g} s: {part:.4%} of them (at most: {MOST:.1%})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(part > MOST)


if __name__ == "__main__":
    sys.exit(main())
