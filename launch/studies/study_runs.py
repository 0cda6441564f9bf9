"""The runs of a study: those that are planned or there, and which ones come next."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from launch.studies.claims import UNDECIDED, combinations_of, decide_claim
from launch.studies.costs import hours, mean_hours
from launch.studies.plan import Cell, Choices, Study, cells_of, combinations, runs_of, seed_sequence
from launch.studies.results_elsewhere import (
    read_results,
    refuse_mixed_sets,
    refuse_other_settings,
    sets_of,
)
from launch.studies.scores import is_finished, scores_of
from trainer.config.resume_compat import fingerprint, training_config
from trainer.config.schema import Config, dump
from trainer.runs.run_folder import RunFolder, run_of


class StudyRuns:
    """The runs of a study, in a folder or with results from other places.

    Those that the study plans come first. A sequential study adds runs of further seeds, and finds those of earlier
    sittings by their folders and in the files. What is finished in the folder counts there, also if a file lists it.
    """

    def __init__(
        self,
        asked: Study,
        folder: Path,
        overrides: Sequence[str],
        defaults: Mapping[str, Any] | None = None,
        results: Sequence[Path] = (),
    ) -> None:
        """Find the runs.

        Args:
            asked: the study.
            folder: folder of its runs.
            overrides: `key=value` settings of every run.
            defaults: nested settings that the recipe overrides.
            results: files `study.json` of other places.

        Raises:
            UserError: the settings of a run are not valid, a run was started with other ones, or a file cannot be read
                or does not fit the study.
        """
        self.asked, self.folder = asked, folder
        self._overrides, self._defaults = overrides, defaults
        self._files, self.elsewhere = results, read_results(asked, results)
        self.configs: dict[Cell, Config] = {}
        self.settings: dict[Cell, str] = {}
        self.runs: dict[Cell, RunFolder] = {}
        self.add(chain(cells_of(asked), self._further_ones() if asked.is_sequential else ()))
        refuse_other_settings(self.elsewhere, self.settings)
        here = {cell: run for cell, run in self.runs.items() if not self._is_only_elsewhere(cell)}
        refuse_mixed_sets(self.elsewhere, here, self.configs)

    def add(self, cells: Iterable[Cell]) -> None:
        """Take runs into the study."""
        configs = runs_of(self.asked, self.folder, self._overrides, self._defaults, cells)
        runs = {cell: run_of(config, cell.name) for cell, config in configs.items()}
        _refuse_other_settings(configs, runs)
        self.configs |= configs
        self.settings |= {cell: _settings_hash(config) for cell, config in configs.items()}
        self.runs |= runs

    def is_finished(self, cell: Cell) -> bool:
        """Return whether a run is trained to its end, here or elsewhere."""
        return cell in self.elsewhere or is_finished(self.runs[cell])

    def unfinished(self) -> list[Cell]:
        """Return the runs that are not trained to their end."""
        return [cell for cell in self.runs if not self.is_finished(cell)]

    def scores(self) -> dict[Cell, float]:
        """Return the accuracies of all evaluated runs, in percent."""
        known = {cell: result.score for cell, result in self.elsewhere.items()}
        return known | scores_of(self.asked, self.runs)

    def counts_by_file(self) -> dict[Path, int]:
        """Return how many runs have their score from each file."""
        here = scores_of(self.asked, self.runs)
        counts = Counter(result.file for cell, result in self.elsewhere.items() if cell not in here)
        return {file: counts[file] for file in self._files}

    def hours(self) -> dict[Cell, float]:
        """Return the device-hours of each run, in the place whose training counts."""
        return {
            cell: self.elsewhere[cell].device_hours if self._is_only_elsewhere(cell) else hours(run)
            for cell, run in self.runs.items()
        }

    def spent(self) -> float:
        """Return the device-hours of all runs, with those of runs that were begun here and finished elsewhere."""
        begun = (hours(run) for cell, run in self.runs.items() if self._is_only_elsewhere(cell))
        return sum(self.hours().values()) + sum(begun)

    def mean_hours(self) -> dict[Choices, float]:
        """Return the device-hours of one run of each combination of which a run is finished."""
        return mean_hours({cell: spent for cell, spent in self.hours().items() if self.is_finished(cell)})

    def sets(self, cell: Cell) -> Mapping[str, str | None]:
        """Return the fingerprints of a run's training and validation set. None: it is not known."""
        return self.elsewhere[cell].sets if self._is_only_elsewhere(cell) else sets_of(self.runs[cell])

    def _is_only_elsewhere(self, cell: Cell) -> bool:
        return cell in self.elsewhere and not is_finished(self.runs[cell])

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
        spent, costs = self.hours(), self.mean_hours()
        left = self.asked.device_hours - self.spent()
        chosen = []
        for cell in cells:
            left -= max(0.0, costs.get(cell.choices, 0.0) - spent.get(cell, 0.0))
            if left < 0:
                break
            chosen.append(cell)
        return chosen

    def _next_seeds(self) -> list[Cell]:
        """Return the runs of the next seed of each claim that is not decided."""
        scores, found = self.scores(), dict[Cell, None]()
        for claim in self.asked.claims:
            if decide_claim(self.asked, claim, scores).verdict != UNDECIDED:
                continue
            compared = combinations_of(self.asked, claim)
            of_seeds = ([Cell(choices, seed) for choices in compared] for seed in seed_sequence(self.asked))
            missing = next(cells for cells in of_seeds if not scores.keys() >= set(cells))
            found |= dict.fromkeys(cell for cell in missing if cell not in scores)
        return list(found)

    def _further_ones(self) -> Iterable[Cell]:
        """Return the runs of further seeds that have a folder or a result elsewhere.

        Seeds follow each other without a gap. Those of another place may lack a seed whose runs failed there, so the
        search begins again at each of them.
        """
        largest = max(self.asked.seeds)
        found: dict[int, list[Cell]] = {}
        for seed in sorted({largest + 1, *(cell.seed for cell in self.elsewhere if cell.seed > largest)}):
            while seed not in found and (there := self._those_there(seed)):
                found[seed] = there
                seed += 1
        return chain.from_iterable(found.values())

    def _those_there(self, seed: int) -> list[Cell]:
        """Return the runs of a seed that have a folder or a result elsewhere."""
        cells = [Cell(choices, seed) for choices in combinations(self.asked.grid)]
        return [
            cell
            for cell in cells
            if cell in self.elsewhere or RunFolder(self.folder / cell.name).config.exists()
        ]


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


def _settings_hash(config: Config) -> str:
    """Return a hash of what `_compared` returns, without the paths of the sets, which differ between places."""
    values = [fingerprint(config), dump(config)["eval"], config.data.eval_resize]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
