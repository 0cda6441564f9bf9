"""What checkpoints cost the training: one after every step of ResNet-18, and the stall of one against ResNet-50's step.

    python benchmarks/checkpoint_stall.py [--blocks 2] [--precision bf16] [--folder DIR] [--json FILE]

First the published CIFAR-10 recipe (ResNet-18, batch 256, a queue of 98,304 keys) in blocks of steps, alternately with
a checkpoint after each step and with none; a block's first step is left out, since it waits for no write before it.
Then ResNet-50 at 224 px on `--rows` images: the stall is what it takes to read the state, copy it and hand it to the
writer. The step at batch 256, too large for most machines with no GPU, is taken to be that of `--rows` images times
256 / rows. Checkpoints are written by the run's own code to `--folder` (default: the temporary folder). Exits with 1
where a step with its checkpoint takes more than 1.15 times one without, or the stall is longer than ResNet-50's step.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from data_pipelines.loading.prefetching_batches import Batch
from trainer.checkpoints.background_writer import BackgroundWriter
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.host_copies import clone_to_host
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config, load_config
from trainer.distributed.process_group import initialize
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.runs.components import build_method

MOST_SLOWER, MOST_STALL, LARGE = 1.15, 1.0, 256
CLASSES, STEPS_OF_BLOCK = 100, 3


@dataclass
class Training:
    """Steps on random images, and checkpoints of them."""

    engine: Engine
    batch: Batch
    writer: BackgroundWriter
    number: int = 0

    @classmethod
    def of(cls, config: Config, rows: int, folder: Path) -> "Training":
        size = config.data.views[0].size
        method = build_method(config, CLASSES, torch.device("cpu"))
        groups = parameter_groups(method.named_parameters(), config.optim, rows)
        engine = Engine(
            method,
            build_optimizer(groups, config.optim),
            Schedule(0.0, 0, 1000),
            micro_batch=rows,
            accumulation=1,
            max_grad_norm=0.0,
            seed=0,
            total_steps=1000,
        )
        views = [torch.randn(rows, 3, size, size).contiguous(memory_format=torch.channels_last) for _ in "ab"]
        batch = Batch(views, torch.arange(rows) % CLASSES, torch.arange(rows))
        return cls(engine, batch, BackgroundWriter(CheckpointStore(folder, attempt=1, keep_last=1)))

    def step(self) -> float:
        """Seconds of a step."""
        began = time.perf_counter()
        self.engine.step(self.number, [self.batch])
        self.number += 1
        return time.perf_counter() - began

    def save(self) -> float:
        """Seconds for which training stands still."""
        began = time.perf_counter()
        model, optimizer = self.engine.state()
        snapshot = Snapshot(
            self.number, clone_to_host(model), clone_to_host(optimizer), {"step": self.number}
        )
        self.writer.submit(snapshot)
        return time.perf_counter() - began

    def wait(self) -> float:
        """Seconds until the write in flight ends. Raises SystemExit where it failed."""
        began = time.perf_counter()
        self.writer.wait()
        if warnings := self.writer.warnings():
            raise SystemExit("; ".join(warnings))
        return time.perf_counter() - began


def every_step(training: Training, blocks: int) -> dict[str, float]:
    """Seconds of a step with and without its checkpoint, and of the stall in it."""
    training.step(), training.save(), training.wait()
    plain, saved, stalls = [], [], []
    for _ in range(blocks):
        plain += [training.step() for _ in range(STEPS_OF_BLOCK)][1:]
        block = [(training.step(), training.save()) for _ in range(STEPS_OF_BLOCK)][1:]
        saved += [step + stall for step, stall in block]
        stalls += [stall for _, stall in block]
        training.wait()
    return {
        "step_without": statistics.median(plain),
        "step_with": statistics.median(saved),
        "stall": statistics.median(stalls),
    }


def one_stall(training: Training, repeats: int = 5) -> dict[str, float]:
    """Seconds of a step, of the stall of one checkpoint, and of its write."""
    training.step(), training.save(), training.wait()
    step = statistics.median(training.step() for _ in range(3))
    pairs = [(training.save(), training.wait()) for _ in range(repeats)]
    return {
        "step": step,
        "stall": statistics.median(stall for stall, _ in pairs),
        "write": statistics.median(write for _, write in pairs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=2, help=f"of {STEPS_OF_BLOCK} steps, of each kind")
    parser.add_argument("--batch", type=int, default=256, help="images of a step of ResNet-18")
    parser.add_argument("--rows", type=int, default=16, help="images of a step of ResNet-50")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
    os.environ.setdefault("MASTER_PORT", "29511")
    initialize()
    precision = f"train.precision={args.precision}"
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        small = Training.of(load_config("cifar10", [precision]), args.batch, folder / "small")
        steps = every_step(small, args.blocks)
        size = sum(file.stat().st_size for file in (folder / "small").rglob("*") if file.is_file())
        small.writer.close()
        shutil.rmtree(folder / "small")
        large = Training.of(load_config("imagenet_resnet50", [precision]), args.rows, folder / "large")
        stall = one_stall(large)
        large.writer.close()
    slower = steps["step_with"] / steps["step_without"]
    estimate = stall["step"] * LARGE / args.rows
    share = stall["stall"] / estimate
    print(f"ResNet-18, batch {args.batch}, {args.precision}, checkpoints of {size / 1e6:.0f} MB")
    print(f"  step without a checkpoint {steps['step_without']:7.3f} s")
    print(
        f"  step with one             {steps['step_with']:7.3f} s, {steps['stall']:.3f} s of them the stall"
    )
    print(f"  ratio {slower:.3f} (at most: {MOST_SLOWER})")
    print(f"ResNet-50 at 224 px, {args.precision}")
    print(f"  step of {args.rows} images {stall['step']:.2f} s, so of {LARGE} about {estimate:.0f} s")
    print(f"  stall of a checkpoint {stall['stall']:.3f} s: {share:.4f} steps (at most: {MOST_STALL:g})")
    print(f"  its write in the background {stall['write']:.2f} s")
    if args.json:
        result = {
            "precision": args.precision,
            "batch": args.batch,
            "checkpoint_bytes": size,
            "resnet18": steps,
        }
        result |= {"rows": args.rows, "resnet50": stall | {"step_of_256": estimate}}
        result |= {"ratio_of_steps": slower, "stall_in_steps": share}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    dist.destroy_process_group()
    return int(slower > MOST_SLOWER or share > MOST_STALL)


if __name__ == "__main__":
    sys.exit(main())
