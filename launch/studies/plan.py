"""A study's file: a grid of runs, what they are judged by, and the claims that they test."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from trainer.config.problems import current_key
from trainer.config.recipes import SHIPPED, merge, read_recipe
from trainer.config.schema import Config, flat, override, parse

SHIPPED_STUDIES = SHIPPED / "studies"
RESERVED = frozenset({"seed", "score", "runs", "best_other", "difference"})
"""Names that reports give a meaning of their own."""


class Claim(Settings):
    """One choice is better than another, by so many points at least."""

    better: str
    """Choice of the compared axis that is claimed to be better."""
    than: str
    """The one that it is compared with."""
    at: dict[str, str] = Field(default_factory=dict)
    """Choices of the other axes, those that are not named being taken together."""
    by: float = 0.0
    """Percentage points."""
    source: str = ""
    """Who claims it."""


class Study(Settings):
    """A study's file."""

    description: str
    """What it asks, in one line."""
    recipe: str
    """Recipe that every run starts from."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Nested settings of all runs over the recipe's: the budget."""
    grid: dict[str, dict[str, dict[str, Any]]]
    """Axes, each with its choices by name, each of these nested settings. Later axes go over earlier ones."""
    compare: str
    """Axis whose choices are compared."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each combination. Runs of one seed see the same images in the same order, and are paired."""
    judge: Literal["knn", "linear_fast"] = "knn"
    """What judges a run at its end: kNN as in training, or logistic regression on frozen features."""
    backbone: Literal["online", "momentum"] = "online"
    """Which of its backbones is judged; the online one where there is no other."""
    claims: tuple[Claim, ...] = ()
    """What is tested."""

    @model_validator(mode="after")
    def _fits(self) -> "Study":
        if self.compare not in self.grid:
            raise ValueError(f"compare names no axis of the grid: {self.compare!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must name one at least, and none twice")
        if taken := RESERVED & self.grid.keys():
            raise ValueError(f"an axis cannot be called {min(taken)}: reports have a column of that name")
        for axis, choices in self.grid.items():
            if not choices:
                raise ValueError(f"grid.{axis} has no choices")
            for name, choice in choices.items():
                if own := {"run", "slurm"} & choice.keys():
                    raise ValueError(
                        f"grid.{axis}.{name} sets {own.pop()}, which the study sets for all runs"
                    )
            if odd := [name for name in (axis, *choices) if not re.fullmatch(r"[\w.+-]+", name)]:
                raise ValueError(f"{odd[0]!r} names runs' folders: letters, digits, _ . + and - are allowed")
        for claim in self.claims:
            named = {**claim.at, self.compare: claim.better}, {**claim.at, self.compare: claim.than}
            for choice in named:
                self._require(choice)
        return self

    def _require(self, choice: Mapping[str, str]) -> None:
        for axis, name in choice.items():
            known = list(self.grid.get(axis, {}))
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ValueError(
                    f"a claim names {axis}={name}, which is not in the grid"
                    + (f"; did you mean {near[0]}?" if near else "")
                )


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    choices: tuple[tuple[str, str], ...]
    """Axis and choice, in the order of the grid."""
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return ",".join(f"{axis}={choice}" for axis, choice in [*self.choices, ("seed", str(self.seed))])


def read_study(study: str | Path) -> Study:
    """A study from a file, or a shipped one by its name.

    Raises:
        UserError: there is none of that name, or it is not valid.
    """
    path = find_study(study)
    try:
        values = yaml.safe_load(path.read_text())
        return Study.model_validate(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML: {error}", where=path, fix="mend the file") from None
    except ValidationError as error:
        lines = [f"  - {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError(
            "\n".join(["is not a valid study:", *lines]),
            where=path,
            fix=f"see the studies in {SHIPPED_STUDIES}",
        ) from None


def shipped_studies() -> dict[str, str]:
    """Description of every shipped study by its name."""
    return {path.stem: read_study(path).description for path in sorted(SHIPPED_STUDIES.glob("*.yaml"))}


def find_study(study: str | Path) -> Path:
    """The file of a study. Raises a UserError that names the shipped ones."""
    for path in (Path(study), SHIPPED_STUDIES / f"{study}.yaml"):
        if path.is_file():
            return path
    names = [p.stem for p in sorted(SHIPPED_STUDIES.glob("*.yaml"))]
    near = difflib.get_close_matches(Path(study).stem, names, n=1)
    raise UserError(
        f"there is no study {str(study)!r}" + (f"; did you mean {near[0]}?" if near else ""),
        fix=f"give the path of a YAML file, or one of {', '.join(names)}",
    )


def runs_of(
    study: Study, folder: Path, overrides: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> dict[Cell, Config]:
    """The configuration of every run, whose folders are in `folder`. The first seed of every combination comes first,
    so that a study that is stopped half-way has seen all of them.

    Args:
        study: what is asked.
        folder: of the runs.
        overrides: `key=value` settings of every run.
        defaults: nested settings under the recipe's.

    Raises:
        UserError: a run's settings are not valid.
    """
    if moved := [o for o in overrides if o.partition("=")[0] in ("run.folder", "run.name", "run.seed")]:
        raise UserError(
            f"{moved[0]} would make all runs of the study one", fix="--out FOLDER moves all of them"
        )
    _refuse_to_undo(study, overrides)
    common = merge(merge(defaults or {}, read_recipe(study.recipe)), study.settings)
    axes = [[(axis, choice) for choice in choices] for axis, choices in study.grid.items()]
    found = {}
    for seed in study.seeds:
        for choices in product(*axes):
            cell, values = Cell(choices, seed), common
            for axis, choice in choices:
                values = merge(values, study.grid[axis][choice])
            values = merge(values, {"run": {"folder": str(folder), "name": cell.name, "seed": seed}})
            found[cell] = override(parse(values, where=cell.name), overrides, where=cell.name)
    return found


def _refuse_to_undo(study: Study, overrides: Sequence[str]) -> None:
    """Runs would not be what their names say where an override takes the place of what a choice sets."""
    for axis, choices in study.grid.items():
        for choice, own in choices.items():
            for assignment, (key, _) in product(overrides, flat(own)):
                if _touches(current_key(assignment.partition("=")[0], Config), current_key(key, Config)):
                    raise UserError(
                        f"{assignment} would take the place of {key}, which {axis}={choice} stands for",
                        fix="change the grid in a copy of the study's file",
                    )


def _touches(one: str, other: str) -> bool:
    """Whether one of two dotted keys is the other or a part of it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
