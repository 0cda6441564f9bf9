"""The tables and figures of `chaos.py`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OF_RANKS = ("killed rank", "exception", "killed rank, SLURM away")
"""Events that a node in order survives without a requeue."""
OF_NODES = ("node without power", "node cut off")
SIGNALS = ("time limit", "preemption", "requeue", "cancel and resume")
"""Events of which SLURM or the user tells the run before."""
RANK_SECONDS, NODE_SECONDS, OUR_SECONDS = 3.0, 8.0, 3.0
FEWER_LOST = 2.0


@dataclass(frozen=True)
class Event:
    """One event, and what came of it."""

    kind: str
    step: int
    """Step that the run was at."""
    redone: int
    """Recorded steps that were made again."""
    seconds: float
    """From the event to the first step of the next attempt."""
    ours: float | None
    """From the moment at which the end was recorded to that step. None: nobody recorded it."""
    in_place: bool
    """Whether the job went on without a restart by SLURM."""


def report(
    found: Mapping[str, Sequence[Event]], goodput: Mapping[str, Mapping[str, Any]], equal: bool
) -> dict[str, bool]:
    """Print tables, and return which figures hold.

    Args:
        found: the events by the kind of recovery.
        goodput: where the time of each run went, as `all4one status --json` says.
        equal: whether all runs are bitwise as one that nothing disturbed.
    """
    for name, events in found.items():
        print(
            f"\n{name + ', event':38}{'times':>6}{'in place':>10}{'median s':>10}{'most s':>8}{'redone, most':>14}"
        )
        for kind in sorted({one.kind for one in events}):
            these = [one for one in events if one.kind == kind]
            seconds = [one.seconds for one in these]
            print(
                f"{kind:38}{len(these):6}{sum(one.in_place for one in these):10}"
                f"{statistics.median(seconds):10.1f}{max(seconds):8.1f}{max(one.redone for one in these):14}"
            )
        known = goodput[name]["fraction"]
        print(f"goodput {100 * known:.1f} %" if known is not None else "goodput unknown")
    checks = {"bitwise as a run that nothing disturbed, every step on record once": equal}
    in_place = found["in_place"]
    ranks = [one for one in in_place if one.kind in OF_RANKS]
    if ranks:
        median = statistics.median(one.seconds for one in ranks)
        checks["a lost rank: no step redone"] = not any(one.redone for one in ranks)
        checks[f"a lost rank: next step after {median:.2f} s (median, <= {RANK_SECONDS:g})"] = (
            median <= RANK_SECONDS
        )
    nodes = [one for one in in_place if one.kind in OF_NODES and one.in_place]
    if nodes:
        median = statistics.median(one.seconds for one in nodes)
        ours = statistics.median(one.ours for one in nodes if one.ours is not None)
        checks[f"a lost node, on the spare: next step after {median:.2f} s (median, <= {NODE_SECONDS:g})"] = (
            median <= NODE_SECONDS
        )
        checks[f"of which ours, after it was noticed: {ours:.2f} s (median, <= {OUR_SECONDS:g})"] = (
            ours <= OUR_SECONDS
        )
    told = [one for one in in_place if one.kind in SIGNALS]
    checks["no step redone after a signal"] = not any(one.redone for one in told)
    if "requeue" in found:
        lost = {name: of["elapsed_seconds"] - of["seconds"]["useful"] for name, of in goodput.items()}
        ratio = lost["requeue"] / lost["in_place"]
        checks[
            f"seconds without a new step: {lost['requeue']:.0f} by requeue, {lost['in_place']:.0f} in place, "
            f"{ratio:.2f} times fewer (>= {FEWER_LOST:g})"
        ] = ratio >= FEWER_LOST
    print()
    for check, held in checks.items():
        print(f"{check}: {'yes' if held else 'NO'}")
    return checks
