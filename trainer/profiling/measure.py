"""Measures a run's steps: full steps, steps without data loading, steps without communication, and the loader alone."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from data_pipelines.loading.prefetching_batches import Batch
from trainer.checkpoints.format import clone_to_host
from trainer.config.schema import Config
from trainer.distributed.objects import all_gather_object
from trainer.distributed.process_group import Process
from trainer.profiling.instruments import OTHER, PARTS, REDUCTION, WAIT, Messages, instrument
from trainer.profiling.timeline import Span, Timeline, own_time
from trainer.runs.components import AUTOCAST, IMAGES, TrainingComponents

WARM_UP = 3
"""Number of steps before the first measured step."""
SHORT_PARTS = 500
"""Number of products that are timed to estimate how times vary."""
STEP = "step"


@dataclass(frozen=True)
class Profile:
    """The measurements. Times are in seconds, as means over the steps and the ranks.

    Means are used because data may arrive in bursts.
    """

    world_size: int
    global_batch: int
    precision: str
    device: str
    step: float
    """Time of a training step."""
    parts: dict[str, float]
    """The same time by part, measured in other steps than `step`."""
    without_data: float
    """Time of a step on a batch that is already loaded."""
    without_messages: float
    """Time of a step on a loaded batch if no rank communicates."""
    loader: float
    """Time in which the loader alone makes the batches of a step."""
    transfer: float
    """Time to copy the pixels of a step from host to device, which the loader's thread does in parallel to the step. 0
    on a CPU."""
    checkpoint: float
    """Time that a checkpoint blocks training: the copy to host memory."""
    checkpoint_every: int
    """Steps between checkpoints. 0: only the last one."""
    flops: float
    """Floating-point operations of a step on one rank."""
    peak: float
    """Floating-point operations per second of a matrix product in this precision, per rank, with all ranks at once."""
    peak_bf16: float
    """The same in bf16."""
    messages: list[dict[str, Any]]
    """Messages of a step on the first rank: each a `Message` with `times`, how often it is sent."""
    jitter: float
    """Standard deviation of a step with independently varying parts, estimated from the times of equal short work.
    Ranks wait for each other at every message."""
    memory: float
    """Peak memory of a rank so far in bytes: device memory, or resident memory."""

    @property
    def on_gpu(self) -> bool:
        """Whether the ranks have GPUs."""
        return not self.device.startswith("CPU")

    @property
    def message_bytes(self) -> float:
        """Bytes that a rank contributes to collectives in a step."""
        return float(sum(m["bytes"] * m["times"] for m in self.messages))

    @property
    def images_per_second(self) -> float:
        """Throughput of all ranks together."""
        return self.global_batch / self.step

    @property
    def mfu(self) -> float:
        """Fraction of the peak that the model's operations reach."""
        return self.flops / self.step / self.peak

    def as_json(self) -> dict[str, Any]:
        """Return the profile as plain values."""
        derived = ("images_per_second", "mfu", "message_bytes")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def profile(
    config: Config,
    process: Process,
    parts: TrainingComponents,
    steps: int,
    say: Callable[[str], None],
    trace: Callable[[Any], None] | None = None,
) -> tuple[Profile, list[Span]]:
    """Measure `steps` steps of each kind. Every rank calls. The engine cannot be used for training afterwards.

    Args:
        config: settings of the run.
        process: this rank.
        parts: components of the run.
        steps: number of steps to measure of each kind.
        say: takes a line on what is measured next.
        trace: receives a torch profiler that has recorded one step.

    Returns the profile, which is the same on every rank, and this rank's spans of the divided steps.
    """
    engine, timeline, bench = parts.engine, Timeline(process.device), _Bench(config, process, parts)
    say("measuring the loader by itself")
    loader = bench.loader_alone(steps)
    with Messages(timeline) as messages:
        instrument(engine, timeline)
        iterator = parts.loader.batches(0)
        say(f"measuring {steps} training steps after {WARM_UP} to warm up")
        for _ in range(WARM_UP):
            batches = bench.train(iterator, timeline)
        whole = [bench.timed(lambda: bench.train(iterator, timeline)) for _ in range(steps)]
        say(f"measuring {steps} training steps with a timer around each part")
        timeline.on = True
        for _ in range(steps):
            bench.train(iterator, timeline)
        timeline.on = False
        spans = timeline.spans()
        sent = [asdict(m) | {"times": count / steps} for m, count in sorted(messages.sent.items())]
        say(f"measuring {steps} steps on a loaded batch, with and without messages between the processes")
        without_data, silent = [], []
        for _ in range(steps):
            dist.barrier()
            without_data.append(bench.timed(lambda: bench.repeat(batches)))
            dist.barrier()
            with messages.kept():
                silent.append(bench.timed(lambda: bench.repeat(batches)))
        dist.barrier()
        if trace is not None:
            with torch.profiler.profile(with_stack=False) as profiler:
                bench.repeat(batches)
            trace(profiler)
        with FlopCounterMode(display=False) as counter:
            bench.repeat(batches)
        parts.loader.close()
    divided = _divided(spans, steps)
    say("measuring a checkpoint and the speed of the device")
    began = time.perf_counter()
    model, optimizer = engine.state()
    clone_to_host(model), clone_to_host(optimizer)
    checkpoint = time.perf_counter() - began
    mean = _mean_over_ranks(
        {
            "step": statistics.fmean(whole),
            "without_data": statistics.fmean(without_data),
            "without_messages": statistics.fmean(silent),
            "loader": loader,
            "transfer": bench.transfer(batches),
            "checkpoint": checkpoint,
            "flops": float(counter.get_total_flops()),
            "peak": bench.peak(bench.dtype),
            "peak_bf16": bench.peak(torch.bfloat16),
            "jitter": bench.jitter(statistics.fmean(silent)),
            "memory": bench.memory(),
            **{f"part {name}": value for name, value in divided.items()},
        }
    )
    shares = {name: mean.pop(f"part {name}") for name in divided}
    return Profile(
        world_size=process.world_size,
        global_batch=config.train.global_batch,
        precision=config.train.precision,
        device=bench.device_name(),
        parts=shares,
        messages=all_gather_object(sent)[0],
        checkpoint_every=config.checkpoint.interval(parts.loader.steps_per_epoch),
        **mean,
    ), spans


class _Bench:
    """Runs the work that is measured."""

    def __init__(self, config: Config, process: Process, parts: TrainingComponents) -> None:
        self._config, self._device, self._parts = config, process.device, parts

    def train(self, iterator: Iterator[Batch], timeline: Timeline) -> list[Batch]:
        """Run a training step without a change of the learning rate. Return its batches."""
        with timeline.span(STEP):
            with timeline.span(WAIT):
                batches = list(islice(iterator, self._config.train.grad_accum_steps))
            self.repeat(batches)
        return batches

    def timed(self, work: Callable[[], object]) -> float:
        self._settle()
        began = time.perf_counter()
        work()
        self._settle()
        return time.perf_counter() - began

    def loader_alone(self, steps: int) -> float:
        """Return the seconds to make the batches of a step, not counting batches that were prefetched."""
        accumulation, ahead = self._config.train.grad_accum_steps, self._config.data.prefetch + 1
        iterator = self._parts.loader.batches(0)
        for _ in range(ahead * accumulation):
            next(iterator)
        counted = max(steps, 3 * ahead)
        began = time.perf_counter()
        for _ in range(counted * accumulation):
            next(iterator)
        seconds = (time.perf_counter() - began) / counted
        dist.barrier()
        return seconds

    def repeat(self, batches: list[Batch]) -> None:
        """Run a step on the same batches with learning rate 0, because overfitted weights would not be typical."""
        self._parts.engine.step(self._parts.total_steps, batches)

    def transfer(self, batches: list[Batch]) -> float:
        """Return the seconds to copy the images of a step to the device, a byte for each value."""
        if self._device.type == "cpu":
            return 0.0
        shapes = [view.shape for batch in batches for view in batch.views]
        host = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for shape in shapes]
        return min(self.timed(lambda: [view.to(self._device) for view in host]) for _ in range(3))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the networks' matrix products."""
        precision = self._config.train.precision
        return AUTOCAST[precision] or IMAGES[precision]

    def peak(self, dtype: torch.dtype) -> float:
        """Return the operations per second of the fastest of several matrix products, with all ranks at once."""
        size = 8192 if self._device.type == "cuda" else 2048
        a = torch.randn(size, size, device=self._device, dtype=dtype)
        dist.barrier()
        best = min(self.timed(lambda: a @ a) for _ in range(6))
        return 2 * size**3 / best

    def jitter(self, seconds: float) -> float:
        """Return the standard deviation of work of this duration, if it consists of parts as short as the timed
        ones."""
        a = torch.randn(512, 512, device=self._device)
        dist.barrier()
        short = [self.timed(lambda: a @ a) for _ in range(SHORT_PARTS)]
        return statistics.pstdev(short) * math.sqrt(seconds / statistics.fmean(short))

    def memory(self) -> float:
        """Peak memory in bytes."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def device_name(self) -> str:
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"CPU, {torch.get_num_threads()} threads per process"

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _divided(spans: list[Span], steps: int) -> dict[str, float]:
    """Return the mean seconds of each part over the steps."""
    starts = [span for span in spans if span.name == STEP]
    by_step = []
    for outer in starts:
        inside = [s for s in spans if outer.start <= s.start and s.end <= outer.end]
        by_step.append(own_time(inside, whole={REDUCTION}))
    found = {name: statistics.fmean(step.get(name, 0.0) for step in by_step) for name in PARTS}
    found[OTHER] += statistics.fmean(step[STEP] for step in by_step)
    assert len(by_step) == steps
    return found


def _mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    everywhere = all_gather_object(values)
    return {name: math.fsum(v[name] for v in everywhere) / len(everywhere) for name in values}
