"""A process that has lost its run cannot write into the file of the next holder, wherever it stood still."""

import os
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from trainer.runs.owned_file import OwnedFile


class Takeover:
    """A lock that another process takes over just after one of the looks at it, which still finds it held."""

    def __init__(self, path: Path, after_look: int) -> None:
        self._path, self._left = path, after_look
        self.next_holder: OwnedFile | None = None

    def require(self) -> None:
        if self.next_holder is not None:
            raise UserError("another process has taken over this run", fix="none")
        self._left -= 1
        if self._left < 0:
            self.next_holder = OwnedFile(self._path)
            with patch("os.getpid", return_value=os.getpid() + 1):  # temporary files bear the process
                self.next_holder.replace(b"next\n")


def test_bytes_of_a_process_that_stood_still_after_its_look_do_not_come_into_the_new_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    lock = Takeover(path, after_look=2)
    stale = OwnedFile(path, lock.require)
    stale.replace(b"")
    assert stale.append(b"first\n")
    assert stale.append(b"second\n")  # this process has seen the lock held, and cannot know better
    assert path.read_bytes() == b"next\n"
    assert not stale.append(b"third\n")
    with pytest.raises(UserError, match="taken over"):
        stale.replace(b"all\n")
    assert path.read_bytes() == b"next\n"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@given(
    takeover=st.integers(0, 6),
    calls=st.lists(st.tuples(st.sampled_from(["append", "replace"]), st.integers(1, 40)), max_size=8),
    later=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_the_next_holder_ends_with_its_own_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    takeover: int,
    calls: list[tuple[str, int]],
    later: list[int],
) -> None:
    path = tmp_path_factory.mktemp("owned") / "metrics.jsonl"
    lock = Takeover(path, takeover)
    stale = OwnedFile(path, lock.require)
    for name, length in calls:
        with suppress(UserError):
            getattr(stale, name)(
                b"s" * 2 * length
            )  # even lengths: the file of the next holder has an odd one
    if lock.next_holder is None:
        return
    whole = b"next\n"
    for length in later:
        whole += b"n" * 2 * length
        if not lock.next_holder.append(b"n" * 2 * length):
            lock.next_holder.replace(whole)
    assert path.read_bytes() == whole


def test_a_file_that_another_program_changes_or_removes_is_told(tmp_path: Path) -> None:
    file = OwnedFile(tmp_path / "metrics.csv")
    for change in (lambda: file.path.unlink(), lambda: file.path.write_bytes(b"longer than it was")):
        file.replace(b"one\n")
        assert file.append(b"two\n")
        change()
        assert not file.append(b"three\n")


@pytest.mark.parametrize("small_disk", ["64k"], indirect=True)
def test_a_part_that_a_full_disk_takes_is_taken_back(small_disk: Path) -> None:
    file = OwnedFile(small_disk / "metrics.jsonl")
    file.replace(b"one\n")
    with pytest.raises(OSError, match="No space left"):
        file.append(bytes(1 << 17))
    assert file.path.read_bytes() == b"one\n"
    assert file.append(b"two\n")
    assert file.path.read_bytes() == b"one\ntwo\n"
