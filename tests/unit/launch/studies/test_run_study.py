from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.studies.plan import Study, runs_of
from launch.studies.run_study import _refuse_other_settings
from trainer.runs.run_folder import create_run, run_of

GRID = {"method": {"all4one": {}}}


def test_a_study_with_relative_paths_goes_on_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"description": "a", "recipe": "digits_demo", "grid": GRID, "compare": "method", "seeds": [0]}
    configs = runs_of(Study.model_validate(values), tmp_path / "out", ["data.train=data/train"])
    runs = {cell: run_of(config, cell.name) for cell, config in configs.items()}
    for cell, config in configs.items():
        create_run(config, cell.name)
    _refuse_other_settings(configs, runs)
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="differ from the study's"):  # the path means another set there
        _refuse_other_settings(configs, runs)
