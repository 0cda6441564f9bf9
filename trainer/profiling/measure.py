"""Measures a run's steps in rounds: with the loader, on a loaded batch, without messages, and with half the rows."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from data_pipelines.cores import usable_cores, waited_for_a_core
from data_pipelines.loading.prefetching_batches import Batch
from trainer.config.schema import Config
from trainer.distributed.objects import all_gather_object
from trainer.distributed.process_group import Process
from trainer.profiling.bench import STEP, Bench
from trainer.profiling.gpu_readings import mean_of_gpus
from trainer.profiling.instruments import (
    EMA,
    LOADER,
    OPTIMIZER,
    OTHER,
    PARTS,
    QUEUE,
    REDUCTION,
    WAIT,
    Messages,
    instrument,
)
from trainer.profiling.peak import FlopsByType, card_speed, combined_peak, find_card
from trainer.profiling.profile_record import Profile
from trainer.profiling.timeline import Span, Timeline, own_time
from trainer.runs.components import TrainingComponents

WARM_UP = 3
"""Number of steps before the first measured step."""
ROUNDS = 5
"""Rounds in which the kinds of steps alternate. A disturbance of some seconds then hits all kinds in one round, which
the median leaves out."""
STEPS_IN_A_ROUND = 2
"""Least number of steps of a kind in a round."""
UPDATE = (OPTIMIZER, EMA, QUEUE)
"""Parts whose cost does not depend on the rows of a batch."""


def profile(
    config: Config,
    process: Process,
    parts: TrainingComponents,
    steps: int,
    say: Callable[[str], None],
    trace: Callable[[Any], None] | None = None,
) -> tuple[Profile, list[Span]]:
    """Measure at least `steps` steps of each kind. Every rank calls. The engine cannot be used for training afterwards.

    Args:
        config: settings of the run.
        process: this rank.
        parts: components of the run.
        steps: number of steps to measure of each kind.
        say: takes a line on what is measured next.
        trace: receives a torch profiler that has recorded one step.

    Returns the profile, which is the same on every rank, and this rank's spans of the last round's training steps.
    """
    engine, timeline, bench = parts.engine, Timeline(process.device), Bench(config, process, parts)
    say("measuring the loader by itself")
    loader = bench.loader_alone(steps)
    with Messages(timeline) as messages:
        instrument(engine, timeline)
        rounds = _Rounds(bench, timeline, messages, parts.loader.batches(0), steps)
        say(f"measuring {rounds.steps} training steps in {rounds.number} rounds, after {WARM_UP} to warm up")
        say("each round also measures steps on a loaded batch, without messages, and with half of the rows")
        rounds.run()
        batches, sent = rounds.batches, rounds.sent_in_a_step()
        if trace is not None:
            with torch.profiler.profile(with_stack=False) as profiler:
                bench.repeat(batches, timeline)
            trace(profiler)
        with FlopsByType() as counter:
            bench.repeat(batches, timeline)
        parts.loader.close()
    say("measuring a checkpoint and the speed of the device")
    found, spread = _median_over_rounds([_mean_over_ranks(measured) for measured in rounds.measured])
    silent = found["without_messages"]
    mean = _mean_over_ranks(
        {
            "loader": loader,
            "transfer": bench.transfer(batches),
            "checkpoint": bench.checkpoint(),
            "flops": float(counter.total),
            "peak": bench.peak_of_types(counter.flops, found.pop("peak")),
            "peak_bf16": bench.peak(torch.bfloat16),
            "jitter": bench.jitter(silent),
            "memory": bench.memory(),
        }
    )
    shares = {name: found.pop(f"part {name}", 0.0) for name in PARTS}
    shares[LOADER] = max(0.0, found["step"] - found["without_data"] - shares[WAIT])
    fixed = found.pop("fixed")
    sheet = find_card(bench.device_name())
    return Profile(
        world_size=process.world_size,
        global_batch=config.train.global_batch,
        precision=config.train.precision,
        device=bench.device_name(),
        parts=shares,
        messages=all_gather_object(sent)[0],
        checkpoint_every=config.checkpoint.interval(parts.loader.steps_per_epoch),
        gpu=mean_of_gpus(all_gather_object(bench.gpu.summary())),
        data_sheet=sheet.name if sheet else "",
        data_sheet_peak=combined_peak(counter.flops, partial(card_speed, sheet)) if sheet else 0.0,
        types={name: flops / counter.total for name, flops in counter.flops.items()},
        overhead=max(0.0, fixed - sum(shares[name] for name in UPDATE)),
        spread=spread,
        threads=torch.get_num_threads(),
        **mean,
        **found,
    ), rounds.spans


class _Rounds:
    """Measures each kind of step in each round, and gathers the seconds of all rounds by name."""

    def __init__(
        self, bench: Bench, timeline: Timeline, messages: Messages, iterator: Iterator[Batch], steps: int
    ) -> None:
        self._bench, self._timeline, self._messages, self._iterator = bench, timeline, messages, iterator
        self.number = min(ROUNDS, steps)
        self._steps = max(STEPS_IN_A_ROUND, math.ceil(steps / self.number))
        self.measured: list[dict[str, float]] = []
        """Seconds by name, a dictionary for each round."""
        self.spans: list[Span] = []
        """Spans of the last round's training steps."""
        self.batches: list[Batch] = []
        """Micro-batches of the last training step."""

    @property
    def steps(self) -> int:
        """Steps of each kind in all rounds."""
        return self.number * self._steps

    def run(self) -> None:
        """Warm up, and measure all rounds."""
        for _ in range(WARM_UP):
            self._train()
        with self._messages.kept():  # the first step with fewer rows costs more than the next ones
            self._bench.repeat(self._bench.fewer_rows(self.batches), self._timeline)
        for _ in range(self.number):
            self.measured.append(self._training() | self._loaded() | self._silent())

    def sent_in_a_step(self) -> list[dict[str, Any]]:
        """Return the messages of a step as plain values."""
        counted = 2 * self.steps  # training steps, and steps on a loaded batch
        sent = sorted(self._messages.sent.items())
        return [asdict(message) | {"times": count / counted} for message, count in sent]

    def _train(self) -> None:
        self.batches = self._bench.train(self._iterator, self._timeline)

    def _training(self) -> dict[str, float]:
        """Measure training steps, once the batches are used up that the loader made while it had the time."""
        for _ in range(self._bench.ahead):
            self._train()
        dist.barrier()
        with self._bench.gpu.taking(), self._timeline.recording():
            step = self._bench.timed(self._train, self._steps)
        self.spans = self._timeline.take()
        return {"step": step, f"part {WAIT}": _divided(self.spans)[WAIT]}

    def _loaded(self) -> dict[str, float]:
        """Measure steps on a loaded batch, and their parts, while the loader rests."""
        bench = self._bench
        bench.rest()
        began, waited = time.monotonic(), waited_for_a_core() or 0.0
        with self._timeline.recording():
            step = bench.timed(lambda: bench.repeat(self.batches, self._timeline), self._steps)
        waited, passed = (waited_for_a_core() or 0.0) - waited, time.monotonic() - began
        found = _divided(self._timeline.take())
        return {
            "without_data": step,
            "crowded": waited / passed if _one_core_for_each_thread() else 0.0,
            **{f"part {name}": seconds for name, seconds in found.items() if name != WAIT},
        }

    def _silent(self) -> dict[str, float]:
        """Measure steps in which no rank sends anything, with all rows and with fewer, and the device's peak."""
        bench, fewer = self._bench, self._bench.fewer_rows(self.batches)
        dist.barrier()
        with self._messages.kept():
            whole = bench.timed(lambda: bench.repeat(self.batches, self._timeline), self._steps)
            part = bench.timed(lambda: bench.repeat(fewer, self._timeline), self._steps)
        fixed = bench.independent_of_rows(whole, part)
        return {"without_messages": whole, "fixed": fixed, "peak": bench.peak(bench.dtype)}


def _divided(spans: Sequence[Span]) -> dict[str, float]:
    """Return the mean seconds of each part over the steps."""
    by_step = []
    for outer in (span for span in spans if span.name == STEP):
        inside = [s for s in spans if outer.start <= s.start and s.end <= outer.end]
        by_step.append(own_time(inside, whole={REDUCTION}))
    found = {name: statistics.fmean(step.get(name, 0.0) for step in by_step) for name in PARTS}
    found[OTHER] += statistics.fmean(step[STEP] for step in by_step)
    return found


def _one_core_for_each_thread() -> bool:
    """Return whether the ranks of this machine have cores enough, so that only other programs could take one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * torch.get_num_threads() <= usable_cores()


def _median_over_rounds(rounds: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median of each value over the rounds, and the spread of those that stand for the machine."""
    values = {name: [measured[name] for measured in rounds] for name in rounds[0]}
    medians = {name: statistics.median(seen) for name, seen in values.items()}
    medians |= _parts_of_step(rounds, medians["without_data"])
    return medians, {name: _spread(values[name]) for name in ("step", "without_data", "peak")}


def _parts_of_step(rounds: Sequence[Mapping[str, float]], step: float) -> dict[str, float]:
    """Return the seconds of the parts of a step on a loaded batch, from medians of their shares in each round.

    Medians of their seconds would not sum to the median step if different parts were disturbed in different rounds.
    """
    names = [name for name in rounds[0] if name.startswith("part ") and name != f"part {WAIT}"]
    shares = {name: statistics.median(one[name] / one["without_data"] for one in rounds) for name in names}
    covered = statistics.median(math.fsum(one[n] for n in names) / one["without_data"] for one in rounds)
    scale = step * covered / (math.fsum(shares.values()) or 1.0)
    return {name: share * scale for name, share in shares.items()}


def _spread(values: Sequence[float]) -> float:
    """Return half of the interquartile range as a fraction of the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle


def _mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    everywhere = all_gather_object(dict(values))
    return {name: math.fsum(v[name] for v in everywhere) / len(everywhere) for name in values}
