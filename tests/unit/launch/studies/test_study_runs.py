"""Which runs of a sequential study come next: those that are not finished, then seeds of open claims, in the budget."""

import json
from pathlib import Path

import pytest
from studied_runs import finish, study

from data_pipelines.errors import UserError
from launch.studies.costs import hours
from launch.studies.plan import Cell, Study, with_budget
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.runs.run_folder import create_run

OF_SEED = {"a": [60.0, 61.0, 62.0], "b": [59.9, 61.2, 62.0], "c": [40.0, 41.0, 42.2]}
"""Scores on which the claim of `a` and `c` is decided, and that of `a` and `b` is not."""


def first_seeds(asked: Study, folder: Path, **seconds: float) -> StudyRuns:
    runs = StudyRuns(asked, folder, [])
    for cell in list(runs.runs):
        name = dict(cell.choices)["method"]
        finish(runs, cell, OF_SEED[name][cell.seed], seconds.get(name, 3600))
    return runs


def named(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def test_an_open_claim_gets_the_next_seed_and_a_decided_one_does_not(tmp_path: Path) -> None:
    runs = first_seeds(study(), tmp_path)
    assert named(runs.next_cells()) == ["method=a,seed=3", "method=b,seed=3"]
    assert runs.unfinished() == runs.next_cells()  # they belong to the study now
    for cell in runs.next_cells():
        finish(runs, cell, 63.0)
    assert named(runs.next_cells()) == ["method=a,seed=4", "method=b,seed=4"]


def test_a_difference_without_an_interval_is_shown_alone(tmp_path: Path) -> None:
    report(first_seeds(study(seeds=[0, 1]), tmp_path))
    assert "| -0.05 to b |" in (tmp_path / "study.md").read_text()


def test_another_sitting_finds_the_further_seeds(tmp_path: Path) -> None:
    runs = first_seeds(study(), tmp_path)
    one, other = runs.next_cells()
    finish(runs, one, 63.0)
    again = StudyRuns(study(), tmp_path, [])
    assert one in again.runs
    assert again.next_cells() == [other]
    fixed = StudyRuns(study(device_hours=None), tmp_path, [])
    assert one not in fixed.runs
    assert fixed.next_cells() == []


def test_seeds_go_on_after_the_largest_one(tmp_path: Path) -> None:
    runs = StudyRuns(study(seeds=[7, 2, 4]), tmp_path, [])
    for cell in list(runs.runs):
        name = dict(cell.choices)["method"]
        finish(runs, cell, OF_SEED[name][[7, 2, 4].index(cell.seed)])
    assert {cell.seed for cell in runs.next_cells()} == {8}


def test_the_budget_pays_for_runs_as_long_as_those_before(tmp_path: Path) -> None:
    spent = 9.0  # nine runs of an hour
    assert first_seeds(study(device_hours=spent + 1.5), tmp_path / "one").next_cells() != []
    asked = study(device_hours=spent + 1.5)
    runs = StudyRuns(asked, tmp_path / "one", [])
    assert named(runs.next_cells()) == ["method=a,seed=3"]  # what the second one needs is not there
    assert first_seeds(study(device_hours=spent + 0.5), tmp_path / "two").next_cells() == []
    assert first_seeds(study(device_hours=1.0), tmp_path / "three").next_cells() == []


def test_a_run_that_has_begun_needs_only_the_rest(tmp_path: Path) -> None:
    runs = StudyRuns(study(device_hours=9.2, seeds=[0, 1, 2]), tmp_path, [])
    for cell in list(runs.runs)[:-1]:
        finish(runs, cell, 50.0)
    last = list(runs.runs)[-1]
    finish(runs, last, 50.0, seconds=0.9 * 3600)
    ledger = runs.runs[last].ledger
    ledger.write_text(ledger.read_text().replace("finished", "stopped"))
    assert runs.next_cells() == [last]


def test_device_hours_are_those_of_status(tmp_path: Path) -> None:
    runs = StudyRuns(study(), tmp_path, [])
    cell = next(iter(runs.runs))
    assert hours(runs.runs[cell]) == 0
    finish(runs, cell, 50.0, seconds=1800)
    assert hours(runs.runs[cell]) == pytest.approx(0.5)


def test_the_report_tells_what_was_spent_and_what_an_open_claim_needs(tmp_path: Path) -> None:
    asked = study()
    runs = first_seeds(asked, tmp_path)
    report(runs)
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["device_hours"] == {"budget": 100, "spent": pytest.approx(9.0)}
    close, clear = found["claims"]
    assert (close["verdict"], clear["verdict"]) == ("not decided by this budget", "held")
    assert close["hours_needed"] == pytest.approx(2 * (close["seeds_needed"] - 3))
    assert clear["seeds_needed"] is None
    words = (tmp_path / "study.md").read_text()
    assert "9.00 of 100 device-hours are used" in words
    assert "for all numbers of seeds at once" in words
    report(StudyRuns(study(device_hours=None), tmp_path, []))
    assert "at once" not in (tmp_path / "study.md").read_text()


def test_a_budget_without_claims_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no claims"):
        study(claims=[])
    fixed = study(claims=[], device_hours=None)
    assert with_budget(fixed, None, tmp_path) is fixed
    with pytest.raises(UserError, match="has no claims"):
        with_budget(fixed, 3.0, tmp_path)
    assert with_budget(study(), 3.0, tmp_path).device_hours == 3.0


def test_a_study_that_was_sequential_stays_so_unless_it_gets_another_budget(tmp_path: Path) -> None:
    fixed = study(device_hours=None)
    report(first_seeds(fixed, tmp_path))
    assert with_budget(fixed, None, tmp_path) is fixed
    asked = with_budget(fixed, 40.0, tmp_path)
    report(StudyRuns(asked, tmp_path, []))
    assert with_budget(fixed, None, tmp_path).device_hours == 40
    assert with_budget(fixed, 3.0, tmp_path).device_hours == 3
    assert with_budget(study(), None, tmp_path).device_hours == 100
    (tmp_path / "study.json").write_text("{}")
    assert with_budget(fixed, None, tmp_path) is fixed


def test_a_study_with_relative_paths_goes_on_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = study(seeds=[0])
    runs = StudyRuns(asked, tmp_path / "out", ["data.train=data/train"])
    for cell, config in runs.configs.items():
        create_run(config, cell.name)
    StudyRuns(asked, tmp_path / "out", ["data.train=data/train"])
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="differ from the study's"):  # the path means another set there
        StudyRuns(asked, tmp_path / "out", ["data.train=data/train"])
