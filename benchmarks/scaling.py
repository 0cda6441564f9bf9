"""What a step takes on many GPUs, from a profile of few: its messages one by one over a network of two levels.

The model, for W ranks on machines of G, each with b images:

- The time of a collective is that of `trainer.profiling.network_model`.
- What is sent in the background costs what outlasts the computation that it runs beside.
- Ranks wait for the slowest before each message in the foreground: times between messages vary independently, with
  the variance of a step divided among them. Groups that meet by themselves drift apart until all meet.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from trainer.distributed.message_kinds import BATCH_STATISTICS, GRADIENTS, KEYS, PREDICTIONS
from trainer.profiling.instruments import BACKWARD
from trainer.profiling.network_model import Network

CONTRASTS = 4
"""Pairs of queries with the keys of all ranks: neighbor and centroid, each in both directions."""
WAITING = "waiting"
CONTRAST = "contrast"
COMPUTE = "compute"


@dataclass(frozen=True)
class Step:
    """What a profile says of a rank's step, made for another batch or another machine by `of`."""

    ranks: int
    rows: float  # images of a rank
    compute: float
    """Seconds without messages."""
    backward: float
    """Of these, seconds of the backward pass, beside which gradients are sent."""
    jitter: float
    """Standard deviation of `compute`, seconds."""
    flops: float
    """Floating-point operations."""
    messages: Sequence[Mapping[str, Any]]
    embedding: int

    @classmethod
    def of(
        cls,
        profile: Mapping[str, Any],
        *,
        embedding: int,
        rows: float = 0,
        speed: float = 0,
        jitter: float = -1,
    ) -> "Step":
        """A profile's step.

        Args:
            profile: what `all4one profile` wrote, of two processes at least.
            embedding: size of the embedding, D.
            rows: images of a rank; 0: the profile's.
            speed: operations a second of a rank where it is another machine than the profile's; 0: the profile's own.
            jitter: standard deviation as a share of the step; negative: the profile's.
        """
        own_rows = profile["global_batch"] / profile["world_size"]
        rows = rows or own_rows
        flops = profile["flops"] * rows / own_rows
        measured = profile["without_messages"] * rows / own_rows
        compute = flops / speed if speed else measured
        share = profile["parts"][BACKWARD] / (profile["step"] - profile["parts"]["data wait"])
        deviation = profile["jitter"] / profile["without_messages"] if jitter < 0 else jitter
        return cls(
            profile["world_size"],
            rows,
            compute,
            share * compute,
            deviation * compute,
            flops,
            [_scaled(m, rows / own_rows) for m in profile["messages"]],
            embedding,
        )


def _scaled(message: Mapping[str, Any], rows: float) -> dict[str, Any]:
    size = message["bytes"]
    if message["kind"] in (KEYS, PREDICTIONS):
        size *= rows
    return {**message, "bytes": size}


def predict(
    step: Step, network: Network, ranks: int, *, group: int = 0, half: bool = False
) -> dict[str, float]:
    """Seconds of a step on `ranks` ranks by what they are spent for.

    Args:
        step: of one rank.
        network: between the ranks.
        ranks: how many.
        group: of ranks that share batch statistics; 0: all.
        half: gradients travel in half the bytes (`parallel.gradient_dtype`).
    """
    speed = step.flops / step.compute
    # logits [b, W b] of each pair: the product forward and two backward
    more = CONTRASTS * 3 * 2 * step.rows * (ranks - step.ranks) * step.rows * step.embedding / speed
    found = {COMPUTE: step.compute, CONTRAST: max(0.0, more)}
    if ranks == 1:
        return found
    beside: dict[str, float] = {}
    waits: list[tuple[int, float]] = [(ranks, 1.0)]  # at the end of a step, for the last gradients
    for message in step.messages:
        kind, size, times = message["kind"], float(message["bytes"]), message["times"]
        among = min(group or ranks, ranks) if kind == BATCH_STATISTICS else ranks
        if kind == PREDICTIONS and message["operation"] == "all_reduce":
            size *= ranks / step.ranks  # gradients of all ranks' rows
        if kind == GRADIENTS and half:
            size /= 2
        seconds = times * network.seconds(message["operation"], size, among)
        into = beside if message["in_background"] else found
        into[kind] = into.get(kind, 0.0) + seconds
        if among > 1 and not message["in_background"]:
            waits.append((among, times))
    for kind, seconds in beside.items():
        # the last bucket of gradients is full when the backward pass ends
        buckets = sum(m["times"] for m in step.messages if m["kind"] == kind)
        last = seconds / buckets if kind == GRADIENTS else 0.0
        found[kind] = found.get(kind, 0.0) + max(last, seconds - step.backward)
    found[WAITING] = step.jitter * _waiting(waits, ranks)
    return found


def _waiting(waits: Sequence[tuple[int, float]], ranks: int) -> float:
    """Time that ranks wait, in standard deviations of a step, where so many wait for each other so often."""
    deviation = 1 / math.sqrt(sum(times for _, times in waits))  # of the stretch before each
    whole = sum(times * slowest_of(among) for among, times in waits)
    drift = 0.0
    for size in {among for among, _ in waits if among < ranks}:
        # groups drift apart by their slowest ranks, and wait for each other where all meet
        steps = sum(times for among, times in waits if among == size)
        drift += math.sqrt(steps) * _spread_of_slowest(size) * slowest_of(ranks // size)
    return deviation * (whole + drift)


def slowest_of(ranks: int) -> float:
    """Expected largest of `ranks` standard normal numbers (Blom 1958)."""
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def _spread_of_slowest(ranks: int) -> float:
    """Standard deviation of the largest of `ranks` standard normal numbers, from 10,000 draws."""
    return float(np.random.default_rng(0).standard_normal((10_000, ranks)).max(1).std())


def efficiency(step: Step, seconds: Mapping[str, float]) -> float:
    """Images a second of a rank over those of a rank alone."""
    return step.compute / sum(seconds.values())
