"""A search in its folder: what was asked, and its trials, each a run in a folder of its own. Loads no torch."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from trainer.runs.records import read_evaluations
from trainer.runs.run_folder import RunFolder

_FILE = "search.json"


@dataclass(frozen=True)
class Asked:
    """What a search varies, and what for. It is the same whenever the search goes on, except for `trials`."""

    recipe: str
    """Name of a shipped recipe, or absolute path of a YAML file."""
    overrides: tuple[str, ...]
    """`key=value` settings of all trials."""
    space: tuple[str, ...]
    """Texts of the dimensions, as `read_space` takes them."""
    metric: str
    """The metric of the evaluations during training whose last value is maximized."""
    sampler: str
    """`tpe` or `random`."""
    prune: bool
    """Whether trials that fall behind are stopped early."""
    seed: int
    """Seed of the sampler."""
    trials: int
    """Number of trials."""


@dataclass(frozen=True)
class Search:
    """A search in a folder."""

    folder: Path
    asked: Asked

    @classmethod
    def open(cls, folder: Path) -> "Search":
        """Read the search in a folder.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        try:
            values: dict[str, Any] = json.loads((folder / _FILE).read_text())
            lists = {name: tuple(values[name]) for name in ("overrides", "space")}
            return cls(folder, Asked(**{**values, **lists}))
        except FileNotFoundError:
            raise UserError(
                "there is no search here", where=folder, fix="give the folder that `all4one tune` printed"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"cannot be read: {error}", where=folder / _FILE, fix="restore the file from a backup"
            ) from None

    @classmethod
    def begin(cls, folder: Path, asked: Asked) -> "Search":
        """Create a search, or go on with the one in the folder. The number of its trials may grow.

        Raises:
            UserError: the folder holds a search for something else, or other files.
        """
        if (folder / _FILE).exists():
            before = cls.open(folder).asked
            changed = [
                name
                for name, value in asdict(replace(before, trials=asked.trials)).items()
                if value != asdict(asked)[name]
            ]
            if changed:
                raise UserError(
                    f"this search was begun with other values of {', '.join(changed)}",
                    where=folder,
                    fix="give the same command as before, or another folder with --out FOLDER",
                )
            asked = replace(asked, trials=max(asked.trials, before.trials))
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(
                "this is where the search would be, and it holds other files",
                where=folder,
                fix="give another folder with --out FOLDER",
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, json.dumps(asdict(asked), indent=1).encode())
        return cls(folder, asked)

    @property
    def journal(self) -> Path:
        """File of Optuna's trials. All processes of the search append to it."""
        return self.folder / "optuna.journal"

    def trial(self, number: int) -> RunFolder:
        """Return the folder of one trial's run."""
        return RunFolder(self.folder / f"trial_{number:03d}")

    @property
    def all_trials(self) -> list[RunFolder]:
        """The folders of all trials, in order."""
        return [self.trial(number) for number in range(self.asked.trials)]

    def number_of(self, run: RunFolder) -> int:
        """Return the number of a trial by the folder of its run."""
        return int(run.path.name.rpartition("_")[2])

    def values(self, run: RunFolder) -> dict[int, float]:
        """Return the metric by the step of each evaluation of a trial, without that of its first weights."""
        evaluations: Sequence[dict[str, Any]] = read_evaluations(run.metrics)
        return {
            one["step"]: one[self.asked.metric]
            for one in evaluations
            if one.get("step") and self.asked.metric in one
        }
