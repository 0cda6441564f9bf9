"""Checkpoints that may be whole, and that the file system or its permissions hide."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import names, snapshot

from data_pipelines.errors import UserError
from launch.local.runs import require_checkpoints
from trainer.checkpoints.format import MANIFEST, MODEL
from trainer.checkpoints.listing import newest_first
from trainer.checkpoints.store import LATEST, CheckpointStore
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder


def test_a_newest_checkpoint_that_may_not_be_read_is_not_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, attempt=1)
    store.write(snapshot(1))
    newest = store.write(snapshot(2))
    _refuse_to_open(monkeypatch, newest / MODEL, PermissionError(13, "Permission denied"))
    with pytest.raises(UserError, match="Permission denied") as caught:
        CheckpointStore(tmp_path).load_newest()
    assert "read permission" in caught.value.fix
    assert caught.value.where == newest / MODEL


@pytest.mark.parametrize("file", [MANIFEST, MODEL])
def test_an_old_checkpoint_that_may_not_be_read_does_not_keep_a_run_from_its_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    store = CheckpointStore(tmp_path, attempt=1)
    old = store.write(snapshot(1))
    store.write(snapshot(2))
    _refuse_to_open(monkeypatch, old / file, PermissionError(13, "Permission denied"))
    found = CheckpointStore(tmp_path).load_newest()
    assert found is not None
    assert (found.snapshot.step, found.skipped) == (2, [])


def test_a_checkpoint_of_unknown_age_is_tried_before_all_others_only_above_their_steps(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, attempt=1)
    paths = [store.write(snapshot(step)) for step in (1, 2, 3)]
    for path in (paths[0], paths[2]):
        (path / MANIFEST).write_text("{")
    assert newest_first(tmp_path, broken=()) == [paths[2], paths[1], paths[0]]


def test_the_rewrite_of_a_step_counts_as_newer_than_the_first_write(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, attempt=1)
    first = store.write(snapshot(2))
    rewrite = tmp_path / f"{first.name}.1"
    shutil.copytree(first, rewrite)
    (rewrite / MANIFEST).write_text("{")
    assert newest_first(tmp_path, broken=()) == [rewrite, first]


def test_checkpoints_that_cannot_be_read_are_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    newest = CheckpointStore(run.checkpoints, attempt=1).write(snapshot(2))
    run.note("saved", attempt=1, step=2)
    _refuse_to_open(monkeypatch, newest / MANIFEST, PermissionError(13, "Permission denied"))
    with pytest.raises(UserError, match="Permission denied"):
        CheckpointStore(run.checkpoints).require_readable()
    for from_scratch in (False, True):
        with pytest.raises(UserError, match="Permission denied"):
            require_checkpoints(run, load_config("digits_demo"), from_scratch=from_scratch)


def test_a_disk_that_does_not_answer_is_told_from_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, attempt=1)
    newest = store.write(snapshot(2))
    _refuse_to_open(monkeypatch, newest / MODEL, OSError(5, "Input/output error"))
    with pytest.raises(UserError, match="Input/output error") as caught:
        CheckpointStore(tmp_path).load_newest()
    assert "remove the folder" not in caught.value.fix
    assert "try again" in caught.value.fix


def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, attempt=1, keep_last=1)
    first = store.write(snapshot(1))
    with monkeypatch.context() as context:
        _refuse_to_open(context, first / "manifest.json", OSError(5, "Input/output error"))
        store.write(snapshot(2))
    assert names(tmp_path) == [LATEST, "step_00000001", "step_00000002"]
    store.write(snapshot(3))
    assert names(tmp_path) == [LATEST, "step_00000003"]


def _refuse_to_open(monkeypatch: pytest.MonkeyPatch, file: Path, error: OSError) -> None:
    real = Path.open, Path.read_bytes

    def open_file(self: Path, *args: Any, **options: Any) -> Any:
        if self == file:
            raise error
        return real[0](self, *args, **options)

    def read_bytes(self: Path) -> bytes:
        if self == file:
            raise error
        return real[1](self)

    monkeypatch.setattr(Path, "open", open_file)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
