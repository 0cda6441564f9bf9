"""What does not fit among the results of other places is refused, with the file and the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from noise_sets import make_set
from studied_runs import CLEAR, CLOSE, GRID, OTHER_SETS, SETS, changed_report, report_of, sit, study

from data_pipelines.errors import UserError
from data_pipelines.shards.shard_set import ShardSet
from launch.studies.results_elsewhere import refuse_other_sets
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns


def test_two_files_that_differ_in_a_run_are_refused(there: Path, tmp_path: Path) -> None:
    file = there / "study.json"
    other = changed_report(there, "other.json", lambda found: found["runs"][4].update(score=1.5))
    StudyRuns(study(), tmp_path / "here", SETS, None, [file, file])
    with pytest.raises(UserError, match=r"method=b,seed=1:\n.*\n.*the score 1\.5") as refused:
        StudyRuns(study(), tmp_path / "here", SETS, None, [file, other])
    assert f"{file} and {other} differ" in str(refused.value)
    moved = changed_report(there, "moved.json", lambda found: found["runs"][4].update(settings="x"))
    with pytest.raises(UserError, match="with the settings 'x'"):
        StudyRuns(study(), tmp_path / "here", SETS, None, [file, moved])


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        ([], True),
        (["data.cache=elsewhere", "guard.max_skips=3", "parallel.torch_threads=2"], True),
        (["optim.momentum=0.5"], False),
        (["eval.knn_k=3"], False),
        (["data.eval_resize=300"], False),
    ],
)
def test_runs_with_other_settings_are_refused(
    there: Path, tmp_path: Path, overrides: list[str], fits: bool
) -> None:
    file = there / "study.json"
    if fits:
        StudyRuns(study(), tmp_path / "here", [*SETS, *overrides], None, [file])
        return
    with pytest.raises(UserError, match="method=a,seed=0 was started with settings that differ") as refused:
        StudyRuns(study(), tmp_path / "here", [*SETS, *overrides], None, [file])
    assert refused.value.where == file
    assert refused.value.fix == "undo the changes to the study, or leave the file out"


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["runs"][1].pop(key)


def entry(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["runs"][1].update(values)


def top(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(values)


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        (without("settings"), "lacks the settings or the device-hours of the run method=b,seed=0", "--show"),
        (without("device_hours"), "lacks the settings or the device-hours", "--show"),
        (top(evaluator="linear_fast"), "evaluator='linear_fast', but this study has evaluator='knn'", "undo"),
        (top(backbone="momentum"), "backbone='momentum', but this study has backbone='online'", "undo"),
        (top(compare="size"), "compare='size', but this study has compare='method'", "undo"),
        (entry(method="d"), "a run with 'method=d', which the grid", "leave the file out"),
        (without("method"), "a run with 'method=None', which the grid", "leave the file out"),
        (entry(method=["a"]), "which the grid", "leave the file out"),
        (entry(**{"a\x1b[1m": "x"}), r"a run with 'a\\x1b\[1m=x', which the grid", "leave the file out"),
        (entry(seed=-1), r"is not a result file of `all4one study`: runs\.1\.seed: ", "--show"),
        (entry(seed=True), r"is not a result file of `all4one study`: runs\.1\.seed: ", "--show"),
        (entry(score=101), r"is not a result file of `all4one study`: runs\.1\.score: ", "--show"),
        (entry(score=float("nan")), "is not a result file of `all4one study`: ", "--show"),
        (entry(score="60"), r"is not a result file of `all4one study`: runs\.1\.score: ", "--show"),
        (without("score"), r"is not a result file of `all4one study`: runs\.1\.score: ", "--show"),
        (entry(device_hours=-1), r"is not a result file of `all4one study`: runs\.1\.device_hours", "--show"),
        (top(runs={}), "is not a result file of `all4one study`: runs: ", "--show"),
        (lambda found: found.pop("compare"), "is not a result file of `all4one study`: compare: ", "--show"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    there: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str, fix: str
) -> None:
    file = changed_report(there, "changed.json", change)
    with pytest.raises(UserError, match=said) as refused:
        StudyRuns(study(), tmp_path / "here", SETS, None, [file])
    assert refused.value.where == file
    assert refused.value.fix is not None
    assert fix in refused.value.fix


def test_an_axis_or_a_seed_that_the_study_lacks_is_refused(there: Path, tmp_path: Path) -> None:
    file = there / "study.json"
    two_axes = study(grid={**GRID, "size": {"1": {}}})
    with pytest.raises(UserError, match="a run with 'size=None'"):
        StudyRuns(two_axes, tmp_path / "here", SETS, None, [file])
    with pytest.raises(UserError, match="the seed 3, which this study does not have"):
        StudyRuns(study(device_hours=None), tmp_path / "here", SETS, None, [file])
    with pytest.raises(UserError, match="the seed 0, which this study does not have"):
        StudyRuns(study(seeds=[1]), tmp_path / "here", SETS, None, [file])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"runs": []}', None])
def test_a_file_that_is_damaged_or_absent_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "study.json"
    if content is not None:
        file.write_bytes(content)
    said = "cannot be read: No such file" if content is None else "is not a result file of `all4one study`"
    with pytest.raises(UserError, match=said):
        StudyRuns(study(), tmp_path / "here", SETS, None, [file])
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        StudyRuns(study(), tmp_path / "here", SETS, None, [tmp_path])


def test_a_file_of_the_first_version_is_told_what_it_lacks(there: Path, tmp_path: Path) -> None:
    def as_it_was(found: dict[str, Any]) -> None:
        found["judge"] = found.pop("evaluator")
        found["runs"] = [{key: one[key] for key in ("method", "seed", "score")} for one in found["runs"]]

    with pytest.raises(UserError, match="which earlier versions do not list"):
        StudyRuns(study(), tmp_path / "here", SETS, None, [changed_report(there, "old.json", as_it_was)])


def test_an_axis_with_the_name_of_a_fact_keeps_its_choice_in_the_report(tmp_path: Path) -> None:
    asked = study(grid={"data": {"a": {}, "b": {"optim": {"lr": 1.0}}}}, compare="data", claims=[CLOSE])
    runs = StudyRuns(asked, tmp_path, SETS)
    report(runs)
    assert [one["data"] for one in report_of(tmp_path)["runs"][:2]] == ["a", "b"]
    with pytest.raises(UserError, match="has an axis 'data'"):
        StudyRuns(asked, tmp_path, SETS, None, [tmp_path / "study.json"])


@pytest.mark.parametrize(("name", "words"), [("data", "training"), ("validation", "validation")])
def test_a_set_with_other_samples_is_refused(there: Path, tmp_path: Path, name: str, words: str) -> None:
    own = make_set(tmp_path / "set")
    sets = [f"data.train={own}", f"data.validation={own}"]

    def listing(file: str, fingerprint: str | None) -> Path:
        def change(found: dict[str, Any]) -> None:
            for run in found["runs"]:
                run.update({"data": None, "validation": None, name: fingerprint})

        return changed_report(there, file, change)

    file = listing("other.json", "f" * 64)
    runs = StudyRuns(study(), tmp_path / "here", sets, None, [file])
    with pytest.raises(
        UserError, match=f"the {words} set is not the one of the run method=a,seed=0 in {file}"
    ) as refused:
        refuse_other_sets(runs.elsewhere, runs.configs)
    assert refused.value.where == own
    nowhere = StudyRuns(study(), tmp_path / "here", SETS, None, [file])
    refuse_other_sets(nowhere.elsewhere, nowhere.configs)  # the set cannot be opened
    fingerprint = ShardSet.open(own, runs.configs[next(iter(runs.runs))].data).fingerprint
    for file in (listing("equal.json", fingerprint), listing("unknown.json", None)):
        runs = StudyRuns(study(), tmp_path / "here", sets, None, [file])
        refuse_other_sets(runs.elsewhere, runs.configs)


def test_the_report_lists_the_sets_of_each_run(tmp_path: Path) -> None:
    sit(study(), tmp_path, [], 1, data="a", validation="b")
    one, *_ = report_of(tmp_path)["runs"]
    assert (one["data"], one["validation"]) == ("a", "b")


@pytest.mark.parametrize(("name", "words"), [("data", "training"), ("validation", "validation")])
def test_runs_with_two_sets_of_one_name_are_not_compared(tmp_path: Path, name: str, words: str) -> None:
    there = tmp_path / "there"
    sit(study(), there, [], 11, OTHER_SETS, **{name: "f" * 64})
    sit(study(), tmp_path / "here", [], 1, **{name: "f" * 64})
    sit(study(), tmp_path / "here", [there / "study.json"], 1, **{name: "0" * 64})
    with pytest.raises(UserError, match=f"had different {words} sets") as refused:
        StudyRuns(study(), tmp_path / "here", SETS, None, [there / "study.json"])
    assert str(there / "study.json") in str(refused.value)
    assert str(tmp_path / "here" / "method=a,seed=4") in str(refused.value)
    sit(study(), tmp_path / "other", [], 1, **{name: "0" * 64})
    part = changed_report(there, "part.json", lambda found: found["runs"].pop(0))
    with pytest.raises(
        UserError, match=f"{part} and of {tmp_path}/other/study.json had different {words} sets"
    ):
        StudyRuns(study(), tmp_path / "third", SETS, None, [part, tmp_path / "other" / "study.json"])
    alone = study(claims=[CLEAR])
    sit(alone, tmp_path / "sets", [], 1, **{name: "a"})
    sit(alone, tmp_path / "sets", [], 1, **{name: "b"})  # without files, a study compares what it trained
