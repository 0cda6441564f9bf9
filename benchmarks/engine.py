"""What DeepSpeed costs against bare DDP, what each ZeRO stage costs, and what a second process on a second core gains.

    python benchmarks/engine.py [--rounds 5] [--batch 64] [--precision fp32] [--json FILE] [KEY=VALUE ...]

All train the same method (the published CIFAR-10 recipe, ResNet-18 and a queue of 98,304 keys) on one random batch a
process, with one thread and one core each: bare DistributedDataParallel, the engine at stages 0, 1 and 2, all on two
processes, and the engine at stage 0 on one. The processes stay; a round is a step of each contender in turn, while
the others sleep. Ratios are medians over the rounds of steps of the same round. Exits with 1 where the engine's stage 0
takes more than 1.03 times the step of DDP, or two processes make fewer than 1.9 times the images of one.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config, load_config
from trainer.distributed.collectives import world_size
from trainer.distributed.process_group import initialize
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.methods import Method
from trainer.runs.components import build_method

MOST_OVERHEAD, LEAST_GAIN = 1.03, 1.9
CLASSES, TOTAL_STEPS = 10, 1000
STAGES = {"engine, ZeRO 0": 0, "engine, ZeRO 1": 1, "engine, ZeRO 2": 2}
DDP, ALONE = "bare DDP", "engine, 1 process"
Step = Callable[[int], object]


def random_batch(batch: int) -> Batch:
    views = [torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    return Batch(views, torch.arange(batch) % CLASSES, torch.arange(batch))


def made(config: Config) -> tuple[Method, torch.optim.Optimizer]:
    method = build_method(config, CLASSES, torch.device("cpu"))
    groups = parameter_groups(
        method.named_parameters(), config.optim, config.train.global_batch * world_size()
    )
    return method, build_optimizer(groups, config.optim)


def bare(config: Config, data: Batch) -> Step:
    """The step with nothing around it but what averages gradients."""
    method, optimizer = made(config)
    method.to(memory_format=torch.channels_last)
    parallel = nn.parallel.DistributedDataParallel(
        method, forward_sync_buffers=False, gradient_as_bucket_view=True
    )

    def step(number: int) -> None:
        method.train()
        optimizer.zero_grad()
        parallel(*data).loss.backward()
        method.after_backward()
        optimizer.step()
        method.after_step(number + 1, TOTAL_STEPS)

    return step


def engine(config: Config, data: Batch, zero: int) -> Step:
    method, optimizer = made(config)
    schedule = Schedule(warmup_start_lr=0.0, warmup_steps=0, total_steps=TOTAL_STEPS)
    engine = Engine(
        method,
        optimizer,
        schedule,
        micro_batch=len(data.ids),
        accumulation=1,
        max_grad_norm=0.0,
        seed=0,
        total_steps=TOTAL_STEPS,
        zero=zero,
    )
    return lambda number: engine.step(number, [data])


def serve(config: Config, environment: dict[str, str], pipe: Connection) -> None:
    """One process: makes its contenders, then answers each name with the seconds of a step of that contender."""
    os.environ |= environment
    ranks, rank = int(environment["WORLD_SIZE"]), int(environment["RANK"])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    initialize()
    data = random_batch(config.train.global_batch)
    steps = (
        {ALONE: engine(config, data, 0)}
        if ranks == 1
        else {DDP: bare(config, data)} | {name: engine(config, data, zero) for name, zero in STAGES.items()}
    )
    pipe.send(list(steps))
    number = 0
    while name := pipe.recv():
        dist.barrier()
        began = time.perf_counter()
        steps[name](number)
        pipe.send(time.perf_counter() - began)
        number += 1
    dist.barrier()
    dist.destroy_process_group()


class Pool:
    """Processes of one group that wait to be told which contender takes a step."""

    def __init__(self, config: Config, ranks: int) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        self._pipes, self._processes = list[Connection](), []
        context = multiprocessing.get_context("spawn")
        for rank in range(ranks):
            own, other = context.Pipe()
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=serve, args=(config, environment, other), daemon=True)
            process.start()
            other.close()
            self._pipes.append(own)
            self._processes.append(process)
        made: list[list[str]] = [pipe.recv() for pipe in self._pipes]
        self.contenders = made[0]

    def seconds(self, contender: str) -> float:
        """Of one step, on the slowest process."""
        for pipe in self._pipes:
            pipe.send(contender)
        return max(pipe.recv() for pipe in self._pipes)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send("")
        for process in self._processes:
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64, help="images of a process")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    args = parser.parse_args()
    config = load_config(
        "cifar10", [f"train.global_batch={args.batch}", f"train.precision={args.precision}", *args.overrides]
    )
    pools = [Pool(config, ranks) for ranks in (1, 2)]
    where = {name: pool for pool in pools for name in pool.contenders}
    for name in where:  # what is made at first use
        where[name].seconds(name)
    rounds = [{name: where[name].seconds(name) for name in where} for _ in range(args.rounds)]
    for pool in pools:
        pool.close()
    seconds = {name: statistics.median(r[name] for r in rounds) for name in where}
    to_ddp = {name: statistics.median(r[name] / r[DDP] for r in rounds) for name in STAGES}
    gain = statistics.median(2 * r[ALONE] / r["engine, ZeRO 0"] for r in rounds)
    print(f"{args.precision}, {args.batch} images a process, one core each; median of {args.rounds} rounds")
    for name, value in seconds.items():
        print(f"  {name:<20} {value:7.3f} s" + (f"   {to_ddp[name]:5.3f} x DDP" if name in to_ddp else ""))
    print(f"images/s of 2 processes: {gain:.3f} x those of 1 (to reach: {LEAST_GAIN})")
    print(f"engine's overhead: {to_ddp['engine, ZeRO 0']:.3f} (at most: {MOST_OVERHEAD})")
    if args.json:
        result = {"precision": args.precision, "batch": args.batch, "rounds": args.rounds}
        result |= {"seconds": seconds, "ratio_to_ddp": to_ddp, "gain_of_second_process": gain}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(to_ddp["engine, ZeRO 0"] > MOST_OVERHEAD or gain < LEAST_GAIN)


if __name__ == "__main__":
    sys.exit(main())
