"""The file of a study: a grid of runs, their evaluation, and the claims that they test."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from data_pipelines.yaml_reader import read_yaml
from trainer.config.overrides import parse_override
from trainer.config.problems import current_key, problem_of
from trainer.config.recipes import COMPONENTS, SHIPPED, flat, merge, read_recipe, with_component_names
from trainer.config.schema import Config, given_settings, override, parse, tell_old_names

SHIPPED_STUDIES = SHIPPED / "studies"
RENAMED_STUDIES = {"neighbours": "num_neighbors", "imagenet100_neighbours": "imagenet100_num_neighbors"}
"""Names of shipped studies in version 0.1, with their names today. Both are accepted."""
Choices = tuple[tuple[str, str], ...]
"""Pairs of axis and choice, in the order of the grid."""
RESERVED = frozenset({"seed", "score", "runs", "best_other", "difference"})
"""Names with a fixed meaning in reports."""


class Claim(Settings):
    """A claim that one choice is better than another, by at least so many points."""

    better: str
    """Choice of the compared axis that is claimed to be better."""
    than: str
    """The choice that it is compared with."""
    at: dict[str, str] = Field(default_factory=dict)
    """Choices of the other axes. Axes that are not named are averaged."""
    by: float = 0.0
    """The margin in percentage points."""
    source: str = ""
    """The source of the claim."""


class Study(Settings):
    """The content of a study's file."""

    first_names = {"judge": "evaluator"}

    several_lines = frozenset({"description"})

    description: str
    """The question of the study, in one line."""
    recipe: str
    """The recipe from which every run starts."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Nested settings of all runs that override the recipe, such as the training budget."""
    grid: dict[str, dict[str, dict[str, Any]]]
    """Axes. Each maps the names of its choices to nested settings. Later axes override earlier ones."""
    compare: str
    """The axis whose choices are compared."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each combination. Runs with the same seed see the same images in the same order, and are compared in
    pairs. A sequential study adds further ones: the next whole numbers."""
    device_hours: float | None = Field(None, gt=0)
    """Budget of a sequential study, in device-hours as `all4one status` counts them: hours of a GPU, or of a process on
    CPUs. After `seeds`, the study goes on with one more seed at a time for the claims that are not decided, until all
    are decided or the budget does not pay for another seed. Its intervals are valid however often one looks. None: the
    study has just `seeds`."""
    evaluator: Literal["knn", "online_classifier", "linear_fast"] = "knn"
    """Evaluator of finished runs: the kNN of the last evaluation during training, the validation accuracy of the online
    classifier in it, or logistic regression on frozen features."""
    backbone: Literal["online", "momentum"] = "online"
    """The backbone to evaluate. The online backbone is used if there is no other."""
    claims: tuple[Claim, ...] = ()
    """The claims to test."""

    @property
    def is_sequential(self) -> bool:
        """Whether the number of seeds depends on the results."""
        return self.device_hours is not None

    @model_validator(mode="after")
    def _fits(self) -> "Study":
        if self.compare not in self.grid:
            raise ValueError(f"compare must name an axis of the grid, not {self.compare!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must list at least one seed, and each seed only once")
        if self.is_sequential and not self.claims:
            raise ValueError(
                "device_hours pays for seeds until all claims are decided, but there are no claims"
            )
        if taken := RESERVED & self.grid.keys():
            raise ValueError(
                f"an axis cannot be named {min(taken)}, because reports have a column of that name"
            )
        for axis, choices in self.grid.items():
            if not choices:
                raise ValueError(f"grid.{axis} has no choices")
            for name, choice in choices.items():
                if own := {"run", "slurm"} & choice.keys():
                    raise ValueError(
                        f"grid.{axis}.{name} sets {own.pop()}, but the study sets it for all runs"
                    )
            if odd := [name for name in (axis, *choices) if not re.fullmatch(r"[\w.+-]+", name)]:
                raise ValueError(
                    f"{odd[0]!r} is part of the names of run folders: only letters, digits, _ . + and - are allowed"
                )
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

    choices: Choices
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return ",".join(f"{axis}={choice}" for axis, choice in [*self.choices, ("seed", str(self.seed))])


def read_study(study: str | Path) -> Study:
    """Read a study from a file, or a shipped study by name.

    Raises:
        UserError: there is no such study, or it is not valid.
    """
    path = find_study(study)
    try:
        values = read_yaml(path)
        tell_old_names(values, Study)
        return Study.model_validate(values)
    except ValidationError as error:
        lines = [f"  - {'.'.join(map(str, e['loc']))}: {problem_of(e)}" for e in error.errors()]
        raise UserError(
            "\n".join(["is not a valid study:", *lines]),
            where=path,
            fix=f"see the examples in {SHIPPED_STUDIES}",
        ) from None


def with_budget(
    study: Study, device_hours: float | None, folder: Path, results: Iterable[Path] = ()
) -> Study:
    """Return the study with the budget that counts: the given one, that of the study, or that of an earlier report.

    Earlier reports count because intervals for a fixed number of seeds would be wrong after seeds were added until a
    claim was decided.

    Args:
        study: the study.
        device_hours: budget of this command. None: none is given.
        folder: folder of the study, with its last report if there is one.
        results: reports of other places. They count after that of the folder.

    Raises:
        UserError: there are no claims that further seeds could decide.
    """
    if device_hours is None:
        recorded = map(_recorded_budget, (folder / "study.json", *results))
        found = None if study.is_sequential else next((one for one in recorded if one is not None), None)
        return study if found is None else study.model_copy(update={"device_hours": found})
    if not study.claims:
        raise UserError(
            "--device-hours pays for seeds until all claims are decided, but the study has no claims",
            fix="add claims to the study, or leave the option out",
        )
    return study.model_copy(update={"device_hours": device_hours})


def _recorded_budget(report: Path) -> float | None:
    """Return the budget in a report. None: there is no report, or the study was not sequential."""
    try:
        budget = json.loads(report.read_text())["device_hours"]["budget"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if budget is None else float(budget)


def shipped_studies() -> dict[str, str]:
    """Return the description of every shipped study by name."""
    return {path.stem: read_study(path).description for path in sorted(SHIPPED_STUDIES.glob("*.yaml"))}


def find_study(study: str | Path) -> Path:
    """Return the file of a study. Raises a UserError that lists the shipped studies."""
    for path in (Path(study), SHIPPED_STUDIES / f"{RENAMED_STUDIES.get(str(study), study)}.yaml"):
        if path.is_file():
            return path
    names = [p.stem for p in sorted(SHIPPED_STUDIES.glob("*.yaml"))]
    near = difflib.get_close_matches(Path(study).stem, names, n=1)
    raise UserError(
        f"there is no study {str(study)!r}" + (f"; did you mean {near[0]}?" if near else ""),
        fix=f"give the path of a YAML file, or one of {', '.join(names)}",
    )


def cells_of(study: Study) -> list[Cell]:
    """Return the runs that the study plans from the start.

    The first seed of every combination comes first, so that a study that is stopped half-way covers all combinations.
    """
    return [Cell(choices, seed) for seed in study.seeds for choices in combinations(study.grid)]


def seed_sequence(study: Study) -> Iterator[int]:
    """Return the seeds in their order: those of the study, and the whole numbers above all of them."""
    return chain(study.seeds, count(max(study.seeds) + 1))


def combinations(axes: Mapping[str, Iterable[str]]) -> list[Choices]:
    """Return all combinations of the choices of some axes."""
    return list(product(*([(axis, choice) for choice in choices] for axis, choices in axes.items())))


def runs_of(
    study: Study,
    folder: Path,
    overrides: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    cells: Iterable[Cell] | None = None,
) -> dict[Cell, Config]:
    """Return the configuration of every run. Runs are saved in `folder`.

    Args:
        study: the study.
        folder: folder of the runs.
        overrides: `key=value` settings of every run.
        defaults: nested settings that the recipe overrides.
        cells: the runs. None: those that the study plans from the start.

    Raises:
        UserError: the settings of a run are not valid.
    """
    _refuse_to_move(overrides)
    _refuse_to_undo(study, overrides)
    common = merge(merge(defaults or {}, read_recipe(study.recipe)), study.settings)
    found = {}
    for cell in cells_of(study) if cells is None else cells:
        values = common
        for axis, choice in cell.choices:
            values = merge(values, study.grid[axis][choice])
        values = merge(values, {"run": {"folder": str(folder), "name": cell.name, "seed": cell.seed}})
        found[cell] = override(parse(values, where=cell.name), overrides, where=cell.name)
    return found


def _refuse_to_move(overrides: Sequence[str]) -> None:
    for assignment in overrides:
        if {"run.folder", "run.name", "run.seed"} & _given(assignment, {}).keys():
            raise UserError(
                f"{assignment} would give all runs of the study the same folder",
                fix="use --out FOLDER to move all runs",
            )


def _refuse_to_undo(study: Study, overrides: Sequence[str]) -> None:
    """Refuse overrides of settings that a choice sets, because the names of the runs would then be wrong."""
    for axis, choices in study.grid.items():
        for choice, own in choices.items():
            set_here = [current_key(key, Config, own) for key, _ in flat(with_component_names(own))]
            for assignment, key in product(overrides, set_here):
                if any(_touches(_changed_by(given), key) for given in _given(assignment, own)):
                    raise UserError(
                        f"{assignment} would override {key}, which {axis}={choice} sets",
                        fix="change the grid in a copy of the study file",
                    )


def _given(assignment: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return given_settings([parse_override(assignment)], values)


def _changed_by(key: str) -> str:
    """Return what an override may change: the name of a component may reset all of the component's settings."""
    component, _, inner = key.partition(".")
    return component if component in COMPONENTS and inner == "name" else key


def _touches(one: str, other: str) -> bool:
    """Return whether two dotted keys are equal, or one is inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
