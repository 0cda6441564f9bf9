import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from built_sets import OPTIONS, files

from data_pipelines.build import output_folder
from data_pipelines.build.builder import build
from data_pipelines.errors import UserError
from data_pipelines.sources.image_sources import Source


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "other.tar", "classes.txt"])
def test_what_is_not_ours_is_never_touched(
    source: Source, tmp_path: Path, name: str, overwrite: bool
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"the output folder is not empty: it contains '{name}'"):
        build(source, tmp_path, OPTIONS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_beside_a_set_of_ours_is_never_touched(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path, OPTIONS)
    (tmp_path / "notes.txt").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"it contains 'notes\.txt'"):
        build(source, tmp_path, OPTIONS, overwrite=True)
    assert files(tmp_path) == before


def test_a_disk_without_room_is_told_before_anything_is_written(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(UserError, match=r"the disk is full: the shards need 0\.\d MB and 0\.0 MB are free"):
        build(source, tmp_path, OPTIONS)
    assert not list(tmp_path.glob("*.tar"))


def test_an_output_that_cannot_be_made_is_refused(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the output folder cannot be created"):
        build(source, tmp_path / "file" / "out", OPTIONS)


def test_two_builds_cannot_write_into_one_folder(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_folder.time, "sleep", lambda _: None)
    tmp_path.joinpath("out").mkdir()
    with output_folder.locked(tmp_path / "out"), pytest.raises(UserError, match="another build is writing"):
        build(source, tmp_path / "out", OPTIONS)


def test_the_record_says_what_the_set_holds(whole_set: Path) -> None:
    record = json.loads((whole_set / "dataset.json").read_text())
    assert record["samples"] == 90
    assert record["classes"] == ["ant", "bee", "cat"]
    assert (whole_set / "classes.txt").read_text() == "ant\nbee\ncat\n"
    assert not (whole_set / ".building").exists()
