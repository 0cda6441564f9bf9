"""`all4one plan`: what a run on a cluster can expect, from simulations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launch.plan.assumptions import Assumptions
from launch.plan.outcome import Outcome
from launch.plan.random_failures import RandomFailures
from launch.plan.search import IntervalSearch, compare_spares, search_interval, spares_that_pay
from launch.plan.simulation import simulate
from launch.plan.sources import Sourced, collect
from trainer.config.schema import load_config


@dataclass(frozen=True)
class Plan:
    """What a run can expect, and which settings would serve it better."""

    assumptions: Assumptions
    sources: Mapping[str, Sourced]
    """The numbers that were chosen, by the name of the field of `Assumptions`."""
    seed: int
    expected: Outcome
    """With the settings of the recipe."""
    interval: IntervalSearch
    """Checkpoint intervals with the spares of `assumptions`."""
    spares: dict[int, Outcome]
    """The outcome of each number of spares, with the best checkpoint interval."""
    spares_that_pay: int

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs. Keys are stable. Infinite times are `null`."""
        return {
            "goodput": self.expected.goodput,
            "goodput_interval": self.expected.interval,
            "expected": _outcome(self.expected),
            "assumptions": {
                name: _finite(value) if isinstance(value, float) else value
                for name, value in asdict(self.assumptions).items()
            },
            "sources": {
                name: {"source": one.source, "is_estimate": one.is_estimate}
                for name, one in self.sources.items()
            },
            "checkpoint_every_steps": {
                "now": self.assumptions.every_steps,
                "best": self.interval.best,
                "young": self.interval.young,
                "goodput": {str(steps): one.goodput for steps, one in self.interval.tried.items()},
            },
            "spares": {
                "best": self.spares_that_pay,
                "by_count": {str(count): _outcome(one) for count, one in self.spares.items()},
            },
            "seed": self.seed,
        }


def make_plan(
    recipe: str, overrides: Sequence[str], given: Mapping[str, float], *, run: Path | None, seed: int
) -> Plan:
    """Simulate a recipe on a cluster.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: `key=value` settings.
        given: numbers from options, by the name of the field of `Assumptions`.
        run: folder of an earlier run whose measured times count. None: there is none.
        seed: seed of the failures.

    Raises:
        UserError: the recipe, a number or the run is wrong.
    """
    assumptions, sources = collect(load_config(recipe, overrides), given, run)
    random = RandomFailures.draw(seed)
    interval = search_interval(assumptions, random)
    spares = compare_spares(replace(assumptions, every_steps=interval.best), random)
    return Plan(
        assumptions=assumptions,
        sources=sources,
        seed=seed,
        expected=simulate(assumptions, random),
        interval=interval,
        spares=spares,
        spares_that_pay=spares_that_pay(spares),
    )


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        name: _finite(value) if isinstance(value, float) else value for name, value in asdict(one).items()
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if abs(value) < float("inf") else None
