"""Curves of a run, and the groups in which the page shows them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from launch.report.facts import RunFacts
from launch.report.metrics import TAU
from trainer.networks.ema_schedule import momentum_at

POINTS = 400
"""Maximum number of points of a drawn curve, more than a chart has pixels."""
EVALUATION = "Evaluation during training"
GROUPS: dict[str, tuple[str, ...]] = {
    EVALUATION: (
        *("knn_online", "knn_momentum", "online_val_top1", "online_val_top5", "online_top1", "online_loss"),
    ),
    "Optimization": ("lr", TAU, "gradient_norm", "skipped_steps"),
    "Speed": ("images_per_second", "data_wait", "bad_samples"),
}
"""Groups of known values. Losses and diagnostics are recognized by the ends of their names."""
LOSSES, HEALTH = "Losses", "Health"
ORDER = (EVALUATION, LOSSES, HEALTH, "Optimization", "Speed")
_HEALTH_ENDS = ("_std", "_rank", "_share", "_agreement", "_cosine", "_age", "_filled", "_distance")


class Curve(NamedTuple):
    """One value over time."""

    epochs: list[float]
    values: list[float]


def curves(facts: RunFacts) -> dict[str, Curve]:
    """Return every recorded value by name, over epochs, and τ from its schedule."""
    found: dict[str, Curve] = {}
    for record in facts.records:
        for name, value in values_of(record):
            curve = found.setdefault(name, Curve([], []))
            curve.epochs.append(float(record["epoch"]))
            curve.values.append(value)
    steps = [(r["epoch"], r["step"]) for r in facts.records if r.get("kind") == "train"]
    if taus := tau_at(facts, [step for _, step in steps]):
        found[TAU] = Curve([float(epoch) for epoch, _ in steps], taus)
    return found


def tau_at(facts: RunFacts, steps: Sequence[int]) -> list[float]:
    """Return the momentum of the EMA encoder at steps, from its schedule. Empty: it has none, or is not known yet."""
    method, total = facts.config.method, facts.status.total_steps
    start, end = getattr(method, "momentum", None), getattr(method, "momentum_end", 1.0)
    if start is None or not total:
        return []
    return [momentum_at(step - 1, total, float(start), float(end)) for step in steps]


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Group names in the order of the page. Empty groups are left out."""
    groups: dict[str, list[str]] = {group: [] for group in ORDER}
    for name in names:
        groups[_group(name)].append(name)
    for group, members in GROUPS.items():
        groups[group].sort(key=members.index)
    groups[LOSSES].sort(key=lambda name: name != "loss")  # the total first, then its parts in recorded order
    return {group: found for group, found in groups.items() if found}


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Reduce a curve to at most `points` values.

    The first and the last value stay, and the lowest and the highest of each stretch, so that no peak is lost.
    """
    if len(curve.values) <= points:
        return curve
    chosen = thinned_places(np.array(curve.values), points)
    return Curve([curve.epochs[i] for i in chosen], [curve.values[i] for i in chosen])


def thinned_places(values: np.ndarray, points: int = POINTS) -> list[int]:
    """Return the places of the values that `thinned` keeps, in order.

    Args:
        values: the values [n] of a curve.
        points: maximum number of places, at least 4.
    """
    count = len(values)
    if count <= points:
        return list(range(count))
    stretches, kept = points // 2 - 1, {0, count - 1}
    for stretch in range(stretches):
        begin, end = stretch * count // stretches, (stretch + 1) * count // stretches
        part = values[begin:end]
        kept |= {begin + int(part.argmin()), begin + int(part.argmax())}
    return sorted(kept)


def values_of(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield each value of a record that is drawn, with its name."""
    for name, value in (record | record.get("time", {})).items():
        if (
            name not in ("step", "epoch", "kind", "time")
            and isinstance(value, int | float)
            and math.isfinite(value)
        ):
            yield name, float(value)


def _group(name: str) -> str:
    known = next((group for group, members in GROUPS.items() if name in members), None)
    return known or (HEALTH if name.endswith(_HEALTH_ENDS) else LOSSES)
