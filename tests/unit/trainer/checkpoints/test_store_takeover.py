"""A writer that stands still for hours while another attempt takes the run over harms nothing when it wakes."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import is_whole, names, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from trainer.checkpoints.store import LATEST, CheckpointStore

pytestmark = pytest.mark.slow

CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "open",
    "os.listdir",
    "os.scandir",
    "os.truncate",
)
"""Audit events that mark the moments of a write at which the process may be stopped."""


class Stall:
    """Runs `meanwhile` once, just before the n-th file operation inside a folder."""

    def __init__(self) -> None:
        self.folder, self.left, self.meanwhile = "", -1, lambda: None
        sys.addaudithook(self._hook)

    def at(self, folder: Path, operation: int, meanwhile: Callable[[], Any]) -> None:
        self.folder, self.left, self.meanwhile = str(folder), operation, meanwhile

    def disarm(self) -> bool:
        """Whether the stall never came."""
        armed, self.left = self.left >= 0, -1
        return armed

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.left < 0 or event not in CHANGES or not str(args[0] if args else "").startswith(self.folder):
            return
        self.left -= 1
        if self.left < 0:
            self.meanwhile()


STALL = Stall()


class Lock:
    """What the first attempt knows of the run's lock."""

    def __init__(self) -> None:
        self.lost = False

    def require(self) -> None:
        if self.lost:
            raise UserError("another process has taken over the run")


def _taken_over_during(
    folder: Path,
    operation: int,
    *,
    keep_last: int,
    successor: list[int],
    back_to: int | None,
    tell: bool = True,
) -> bool:
    """Stop a write of step 40 at an operation. Return whether the write has so many operations."""
    lock = Lock()
    first = CheckpointStore(folder, attempt=1, keep_last=keep_last, require_lock=lock.require)
    for step in (10, 20, 30):
        first.write(snapshot(step))

    def take_over() -> None:
        lock.lost = tell
        second = CheckpointStore(folder, attempt=2, keep_last=keep_last)
        if back_to is not None and (kept := folder / f"step_{back_to:08d}").is_dir():
            second.go_back_to(kept)
        for step in successor:
            second.write(snapshot(step))

    STALL.at(folder, operation, take_over)
    refused = ""
    try:
        first.write(snapshot(40))
    except UserError as error:
        refused = error.what
    if lock.lost and refused:
        assert "taken over" in refused or "later attempt" in refused
    return not STALL.disarm()


@pytest.mark.parametrize("keep_last", [1, 3])
@pytest.mark.parametrize(("successor", "back_to"), [([35], None), ([31, 40, 50], None), ([15, 25], 10)])
def test_at_whichever_point_a_write_stalls_the_checkpoints_of_the_successor_stay(
    tmp_path: Path, keep_last: int, successor: list[int], back_to: int | None
) -> None:
    operation = 0
    while True:
        folder = tmp_path / str(operation)
        if not _taken_over_during(
            folder, operation, keep_last=keep_last, successor=successor, back_to=back_to
        ):
            break
        found = CheckpointStore(folder).load_newest()
        assert found is not None
        assert found.snapshot.step == successor[-1], operation
        is_whole(found.snapshot)
        for step in successor[-keep_last:]:
            assert any(path.name.startswith(f"step_{step:08d}") for path in folder.iterdir()), operation
        assert (folder / LATEST).read_text().strip() == found.path.name, operation
        operation += 1
    assert operation > 20


def test_a_successor_that_has_saved_nothing_yet_keeps_what_it_began_from(tmp_path: Path) -> None:
    operation = 0
    while _taken_over_during(
        folder := tmp_path / str(operation), operation, keep_last=1, successor=[], back_to=None
    ):
        found = CheckpointStore(folder).load_newest()
        assert found is not None
        assert found.snapshot.step in (30, 40)
        is_whole(found.snapshot)
        operation += 1
    assert operation > 20


@settings(max_examples=25, deadline=None)
@given(
    operation=st.integers(0, 60), successor=st.lists(st.integers(31, 60), min_size=1, max_size=4, unique=True)
)
def test_a_writer_whose_lock_does_not_tell_in_time_does_not_hide_the_successor(
    tmp_path_factory: pytest.TempPathFactory, operation: int, successor: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    stalled = _taken_over_during(
        folder, operation, keep_last=3, successor=successor, back_to=None, tell=False
    )
    found = CheckpointStore(folder).load_newest()
    assert found is not None
    assert found.snapshot.step == (successor[-1] if stalled else 40)
    is_whole(found.snapshot)


def test_a_later_attempt_is_never_written_over(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, attempt=3).write(snapshot(20))
    with pytest.raises(UserError, match="a later attempt has written checkpoints"):
        CheckpointStore(tmp_path, attempt=2).write(snapshot(30))
    assert names(tmp_path) == [LATEST, "step_00000020"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = CheckpointStore(tmp_path / "checkpoints", attempt=1).write(snapshot(1))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {mode}
