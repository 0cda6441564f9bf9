"""The runs of a study: those that are planned or there, and which ones come next."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from launch.studies.claims import UNDECIDED, combinations_of, decide_claim
from launch.studies.costs import hours, mean_hours
from launch.studies.plan import Cell, Study, cells_of, combinations, runs_of, seed_sequence
from launch.studies.scores import is_finished, scores_of
from trainer.config.resume_compat import training_config
from trainer.config.schema import Config, dump
from trainer.runs.run_folder import RunFolder, run_of


class StudyRuns:
    """The runs of a study in a folder.

    Those that the study plans come first. A sequential study adds runs of further seeds, and finds those of earlier
    sittings by their folders.
    """

    def __init__(
        self,
        asked: Study,
        folder: Path,
        overrides: Sequence[str],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Find the runs.

        Args:
            asked: the study.
            folder: folder of its runs.
            overrides: `key=value` settings of every run.
            defaults: nested settings that the recipe overrides.

        Raises:
            UserError: the settings of a run are not valid, or a run was started with other ones.
        """
        self.asked, self.folder = asked, folder
        self._overrides, self._defaults = overrides, defaults
        self.configs: dict[Cell, Config] = {}
        self.runs: dict[Cell, RunFolder] = {}
        self.add(chain(cells_of(asked), self._further_ones() if asked.is_sequential else ()))

    def add(self, cells: Iterable[Cell]) -> None:
        """Take runs into the study."""
        configs = runs_of(self.asked, self.folder, self._overrides, self._defaults, cells)
        runs = {cell: run_of(config, cell.name) for cell, config in configs.items()}
        _refuse_other_settings(configs, runs)
        self.configs |= configs
        self.runs |= runs

    def unfinished(self) -> list[Cell]:
        """Return the runs that are not trained to their end."""
        return [cell for cell, run in self.runs.items() if not is_finished(run)]

    def next_cells(self) -> list[Cell]:
        """Return the runs that come next: those that are not finished, or the next seed of each open claim.

        They become part of the study, as far as its budget pays for them. A run without an example of its costs is
        taken to cost nothing.
        """
        cells = self.unfinished()
        if not cells and self.asked.is_sequential:
            cells = self._next_seeds()
        chosen = self._affordable(cells)
        if new := [cell for cell in chosen if cell not in self.runs]:
            self.add(new)
        return chosen

    def _affordable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the first runs, as many as the rest of the budget pays for. Without a budget: all."""
        if self.asked.device_hours is None:
            return list(cells)
        spent = {cell: hours(run) for cell, run in self.runs.items()}
        costs, left = mean_hours(self.runs, spent), self.asked.device_hours - sum(spent.values())
        chosen = []
        for cell in cells:
            left -= max(0.0, costs.get(cell.choices, 0.0) - spent.get(cell, 0.0))
            if left < 0:
                break
            chosen.append(cell)
        return chosen

    def _next_seeds(self) -> list[Cell]:
        """Return the runs of the next seed of each claim that is not decided."""
        scores, found = scores_of(self.asked, self.runs), dict[Cell, None]()
        for claim in self.asked.claims:
            if decide_claim(self.asked, claim, scores).verdict != UNDECIDED:
                continue
            compared = combinations_of(self.asked, claim)
            of_seeds = ([Cell(choices, seed) for choices in compared] for seed in seed_sequence(self.asked))
            missing = next(cells for cells in of_seeds if not scores.keys() >= set(cells))
            found |= dict.fromkeys(cell for cell in missing if cell not in scores)
        return list(found)

    def _further_ones(self) -> Iterable[Cell]:
        """Return the runs of further seeds that have a folder."""
        all_choices = combinations(self.asked.grid)
        of_seeds = (
            [cell for choices in all_choices if self._is_there(cell := Cell(choices, seed))]
            for seed in islice(seed_sequence(self.asked), len(self.asked.seeds), None)
        )
        return chain.from_iterable(takewhile(bool, of_seeds))

    def _is_there(self, cell: Cell) -> bool:
        return RunFolder(self.folder / cell.name).config.exists()


def _refuse_other_settings(configs: Mapping[Cell, Config], runs: Mapping[Cell, RunFolder]) -> None:
    """Refuse runs with other settings than the study's, because their results would not be comparable."""
    for cell, run in runs.items():
        if run.config.exists() and _compared(run.read_config()) != _compared(configs[cell]):
            raise UserError(
                "this run was started with settings that differ from the study's current settings",
                where=run.path,
                fix="undo the changes to the study, or use --out FOLDER to keep both",
            )


def _compared(config: Config) -> object:
    config = config.with_absolute_paths()  # a run stores these
    values = dump(config)
    sets = [values["data"][key] for key in ("train", "validation", "eval_resize")]
    return training_config(config), values["eval"], sets
