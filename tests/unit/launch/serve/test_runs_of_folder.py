"""The list of runs: what it tells, what it leaves out, and that one broken run takes nothing down."""

import json
import tarfile
from pathlib import Path

import pytest
from served_runs import append, copy_run, train_record, write_run

from data_pipelines.errors import UserError
from launch.serve.app import App
from launch.serve.runs_of_folder import BROKEN, PROFILE, RunsOfFolder, RunSummary
from launch.status.run_status import overview
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("written"), "one")


def by_id(folder: Path) -> dict[str, RunSummary]:
    return {one.id: one for one in RunsOfFolder(folder).summaries()}


def test_a_line_tells_what_status_tells(written: RunFolder, tmp_path: Path) -> None:
    run = copy_run(written, tmp_path / "sweep" / "one")
    [told], found = overview(run.path).runs, by_id(tmp_path)["sweep/one"]
    assert (found.state, found.step, found.total_steps) == (told.state, told.step, told.total_steps)
    assert (found.attempts, found.images_per_second) == (told.attempts, told.images_per_second)
    assert found.goodput == pytest.approx(told.goodput.fraction)
    assert (found.method, found.backbone) == ("all4one", "resnet18")
    assert (found.epoch, found.loss, found.knn) == (4.0, 3 / 40, 0.75)
    assert found.updated == pytest.approx(run.metrics.stat().st_mtime)


def test_an_evaluation_long_ago_is_found(written: RunFolder, tmp_path: Path) -> None:
    run = copy_run(written, tmp_path / "one")
    append(run, *(train_record(step) for step in range(41, 9000)))
    found = by_id(tmp_path)["one"]
    assert (found.step, found.knn) == (8999, 0.75)


def test_what_has_changed_is_read_again(written: RunFolder, tmp_path: Path) -> None:
    run, folder = copy_run(written, tmp_path / "one"), RunsOfFolder(tmp_path)
    assert [one.step for one in folder.summaries()] == [40]
    assert folder.summaries()[0] is folder.summaries()[0]
    append(run, train_record(41))
    assert [one.step for one in folder.summaries()] == [41]
    with RunLock(run.path, attempt=2):
        run.note("start", attempt=2, world_size=1, last_recorded=None)
        assert [one.state for one in folder.summaries()] == ["running"]


def test_broken_runs_are_named_and_hide_no_other(written: RunFolder, tmp_path: Path) -> None:
    copy_run(written, tmp_path / "good")
    for name, config in (
        ("torn", "train: {"),
        ("text", "hello"),
        ("foreign", "train: 3"),
        ("bare", "train: {a: 1}"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    (copy_run(written, tmp_path / "noise").metrics).write_bytes(b"\x00\xff" * 100)
    (copy_run(written, tmp_path / "empty").metrics).write_bytes(b"")
    copy_run(written, tmp_path / "new").metrics.unlink()
    found = by_id(tmp_path)
    assert found["good"].state == "finished"
    for name in ("torn", "text", "foreign", "bare"):
        assert found[name].state == BROKEN, name
        assert "config.yaml" in (found[name].problem or "")
        assert str(tmp_path) not in (found[name].problem or "").replace(
            str(tmp_path / name / "config.yaml"), ""
        )
    for name in ("noise", "empty", "new"):
        assert (found[name].problem, found[name].loss) == (None, None), name


def test_a_speed_of_nearly_nothing_leaves_the_time_left_open(written: RunFolder, tmp_path: Path) -> None:
    run = copy_run(written, tmp_path / "slow")
    with RunLock(run.path, attempt=2):
        run.note("start", attempt=2, world_size=1, last_recorded=None)
        run.note("ready", attempt=2, step=40, total_steps=1000, replayed=0)
        append(run, train_record(41) | {"time": {"images_per_second": 5e-324}})
        [found] = RunsOfFolder(tmp_path).summaries()
        assert (found.state, found.seconds_left) == ("running", None)
        assert App(RunsOfFolder(tmp_path)).answer("api/runs", {}) is not None


def test_a_folder_without_runs_and_the_folder_of_one_run(written: RunFolder, tmp_path: Path) -> None:
    assert RunsOfFolder(tmp_path).summaries() == []
    assert list(RunsOfFolder(written.path).runs()) == ["."]
    assert RunsOfFolder(written.path).summaries()[0].step == 40


def test_the_results_of_a_profile_are_told_apart(written: RunFolder, tmp_path: Path) -> None:
    run = copy_run(written, tmp_path / "measured")
    run.metrics.unlink()
    (run.path / "profile.json").write_text(json.dumps({}))
    assert by_id(tmp_path)["measured"].state == PROFILE


def test_links_that_lead_out_of_the_folder_are_not_followed(written: RunFolder, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    copy_run(written, inside / "real")
    (inside / "alias").symlink_to(inside / "real")
    (inside / "out").symlink_to(written.path)
    copy_run(written, inside / "file").metrics.unlink()
    (inside / "file" / "metrics.jsonl").symlink_to(written.metrics)
    folder = RunsOfFolder(inside)
    assert folder.runs().keys() == {"real", "alias"}
    found = {one.id: one for one in folder.summaries()}
    assert {one.id for one in found.values() if "leads out of inside" in (one.problem or "")} == {
        "out",
        "file",
    }


@pytest.mark.parametrize("name", ["", "..", "../inside/one", "/etc", "one/../one", "one/", "ONE", "one\0"])
def test_an_id_is_never_a_path(written: RunFolder, tmp_path: Path, name: str) -> None:
    copy_run(written, tmp_path / "inside" / "one")
    folder = RunsOfFolder(tmp_path / "inside")
    assert folder.run("one").path == tmp_path / "inside" / "one"
    with pytest.raises(UserError, match="there is no such run"):
        folder.run(name)


def test_a_run_of_version_0_1_is_shown(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[3] / "fixtures" / "version_0_1" / "run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = by_id(tmp_path / "runs")["interrupted"]
    assert (found.state, found.method, found.problem) == ("terminated", "all4one", None)
    app = App(RunsOfFolder(tmp_path / "runs"))
    pages = {place: app.answer(f"api/{place}", {"run": ["interrupted"]}) for place in ("run", "metrics")}
    page, metrics = (json.loads(found.body) for found in pages.values() if found is not None)
    assert page["figures"][0]["value"] == "terminated"
    names = {chart["name"] for group in metrics["groups"] for chart in group["charts"]}
    assert {"loss", "neighbor", "τ"} <= names
