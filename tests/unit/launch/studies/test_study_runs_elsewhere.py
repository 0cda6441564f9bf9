"""Runs of a study that were trained in other places count as if they were here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from studied_runs import OTHER_SETS, SETS, changed_report, finish, report_of, score_of, sit, study

from launch.studies.plan import Cell, Study, with_budget
from launch.studies.run_study import study as run_study
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.runs.run_folder import RunFolder, create_run


def test_runs_of_another_place_count_and_are_kept(there: Path, tmp_path: Path) -> None:
    asked, here = study(), tmp_path / "here"
    runs = StudyRuns(asked, here, SETS, None, [there / "study.json"])
    assert runs.next_cells()[0].name == "method=a,seed=4"
    report(runs)
    ours, theirs = report_of(here), report_of(there)
    assert ours["runs"][:11] == theirs["runs"]
    assert ours["runs"][0] == {
        "method": "a",
        "seed": 0,
        "score": pytest.approx(score_of(Cell((("method", "a"),), 0))),
        "device_hours": 1.0,
        "settings": theirs["runs"][0]["settings"],
        "data": "f" * 64,
        "validation": None,
    }
    assert len({one["settings"] for one in ours["runs"]}) == 13  # each has another seed or another method
    for part in ("claims", "device_hours"):
        assert ours[part] == theirs[part]
    assert [row["score"] for row in ours["rows"]] == [row["score"] for row in theirs["rows"]]
    assert (here / "study.png").exists()
    words = f"The results of 11 of 13 runs come from files: 11 from {there}/study.json."
    assert words in (here / "study.md").read_text()
    assert words in ours["table"]["words"]
    third = StudyRuns(asked, tmp_path / "third", SETS, None, [here / "study.json"])
    assert third.spent() == pytest.approx(theirs["device_hours"]["spent"])
    assert third.sets(next(iter(third.runs))) == {"data": "f" * 64, "validation": None}


def test_a_chain_of_three_folders_is_one_study(tmp_path: Path) -> None:
    asked = study(seeds=[0, 1], device_hours=25.0)
    whole = sit(asked, tmp_path / "one", [], 99)
    parts = sit(asked, tmp_path / "a", [], 4)
    parts += sit(asked, tmp_path / "b", [tmp_path / "a" / "study.json"], 7)
    newest = [tmp_path / "b" / "study.json"]
    coming = StudyRuns(asked, tmp_path / "c", SETS, None, newest).next_cells()
    assert [cell.name for cell in coming] == whole[11 : 11 + len(coming)]
    parts += sit(asked, tmp_path / "c", newest, 99)
    assert len(whole) > 13
    assert parts == whole
    one, chain = report_of(tmp_path / "one"), report_of(tmp_path / "c")
    for part in ("claims", "rows", "runs"):
        assert chain[part] == one[part]
    assert chain["device_hours"]["spent"] == pytest.approx(one["device_hours"]["spent"])
    assert StudyRuns(asked, tmp_path / "c", SETS, None, newest).next_cells() == []


def test_parts_of_several_places_become_one_study(tmp_path: Path) -> None:
    for seed in (0, 1):
        sit(study(seeds=[seed], device_hours=None), tmp_path / str(seed), [], 99)
    asked, files = (
        study(seeds=[0, 1], device_hours=None),
        [tmp_path / "1/study.json", tmp_path / "0/study.json"],
    )
    runs = StudyRuns(asked, tmp_path / "both", SETS, None, files)
    assert runs.next_cells() == []
    assert runs.counts_by_file() == {files[0]: 3, files[1]: 3}
    assert runs.scores() == {cell: pytest.approx(score_of(cell)) for cell in runs.runs}
    empty = StudyRuns(asked, tmp_path / "none", SETS, None, [])
    report(empty)  # entries without a score are ignored
    assert StudyRuns(asked, tmp_path / "new", SETS, None, [tmp_path / "none/study.json"]).elsewhere == {}


def test_the_report_stands_in_for_runs_that_were_removed(there: Path) -> None:
    before = report_of(there)
    for run in there.glob("method=*"):
        shutil.rmtree(run)
    runs = StudyRuns(study(), there, SETS, None, [there / "study.json"])
    report(runs)
    after = report_of(there)
    assert (after["runs"], after["claims"], after["device_hours"]) == (
        before["runs"],
        before["claims"],
        before["device_hours"],
    )


def test_a_report_whose_runs_are_gone_is_kept_when_it_is_replaced(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(asked: Study, *results: Path) -> str:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_defaults=True)))
        options: dict[str, Any] = {"nproc": 1, "submit": False, "array_parallelism": 1, "show": True}
        run_study(str(file), OTHER_SETS, out=there, results=results, **options)
        return capsys.readouterr().err

    assert show(study(), there / "study.json") == ""
    assert show(study(seeds=[0, 1])) == ""  # the other runs still have their folders
    assert show(study()) == ""
    before = report_of(there)
    shutil.rmtree(there / "method=b,seed=1")
    warning = show(study())
    assert "study.json lists 1 run without a folder, such as method=b,seed=1." in warning
    assert f"--results {there}/study.1.json" in warning
    assert json.loads((there / "study.1.json").read_text()) == before
    assert show(study()) == ""
    assert show(study(), there / "study.1.json") == ""
    assert report_of(there)["runs"] == before["runs"]
    newer = report_of(there)
    assert f"--results {there}/study.2.json" in show(study())
    assert json.loads((there / "study.1.json").read_text()) == before
    assert json.loads((there / "study.2.json").read_text()) == newer
    (there / "study.json").write_bytes((there / "study.2.json").read_bytes())  # as if the command was stopped
    assert f"--results {there}/study.2.json" in show(study())
    assert len(list(there.glob("study.*.json"))) == 2


def test_seeds_may_lack_between_those_of_another_place(there: Path, tmp_path: Path) -> None:
    def without_seed_2(found: dict[str, Any]) -> None:
        found["runs"] = [one for one in found["runs"] if one["seed"] != 2]

    file = changed_report(there, "gap.json", without_seed_2)
    asked = study(seeds=[0])
    runs = StudyRuns(asked, tmp_path / "here", SETS, None, [file])
    assert sorted({cell.seed for cell in runs.runs}) == [0, 1, 3]
    assert {cell.seed for cell in runs.next_cells()} == {2}
    later = Cell((("method", "a"),), 4)  # a seed after the gap that is here
    runs.add([later])
    create_run(runs.configs[later], later.name)
    assert later in StudyRuns(asked, tmp_path / "here", SETS, None, [file]).runs


def test_a_run_that_is_finished_here_counts(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, file = tmp_path / "here", tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study().model_dump(mode="json", exclude_defaults=True)))
    runs = StudyRuns(study(), here, SETS)
    first, second = list(runs.runs)[:2]
    finish(runs, first, score_of(first), 7200)
    finish(runs, second, 12.5)
    options: dict[str, Any] = {"nproc": 1, "submit": False, "array_parallelism": 1, "show": True}
    run_study(str(file), SETS, out=here, results=[there / "study.json"], **options)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    listed = report_of(there)["runs"][1]["score"]
    assert warnings[0].startswith(
        f"warning: {here / second.name} has the score 12.5, but {there}/study.json lists {listed}. "
    )
    found = report_of(here)
    assert [one["score"] for one in found["runs"][:2]] == [pytest.approx(score_of(first)), 12.5]
    assert found["runs"][0]["device_hours"] == 2.0
    assert "The results of 9 of 11 runs come from files: 9 from" in found["table"]["words"]


def test_hours_of_a_run_that_was_begun_here_and_finished_elsewhere_are_spent(
    there: Path, tmp_path: Path
) -> None:
    runs = StudyRuns(study(), tmp_path / "here", SETS)
    cell = next(iter(runs.runs))
    finish(runs, cell, 50.0, seconds=1800)
    ledger = RunFolder(runs.folder / cell.name).ledger
    ledger.write_text(ledger.read_text().replace("finished", "stopped"))
    runs = StudyRuns(study(), tmp_path / "here", SETS, None, [there / "study.json"])
    assert runs.is_finished(cell)
    assert runs.scores()[cell] == pytest.approx(score_of(cell))
    assert runs.hours()[cell] == 1.0
    assert runs.spent() == pytest.approx(report_of(there)["device_hours"]["spent"] + 0.5)


def test_a_study_stays_sequential_elsewhere(there: Path, tmp_path: Path) -> None:
    fixed, file = study(device_hours=None), there / "study.json"
    assert with_budget(fixed, None, tmp_path, [tmp_path / "none.json", file]).device_hours == 100
    assert with_budget(fixed, 7.0, tmp_path, [file]).device_hours == 7
    assert with_budget(study(device_hours=30), None, tmp_path, [file]).device_hours == 30
