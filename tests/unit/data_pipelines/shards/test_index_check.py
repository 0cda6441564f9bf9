import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards import index_check
from data_pipelines.shards.index import fingerprint
from data_pipelines.shards.shard_set import ShardSet


@pytest.fixture
def folder(whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index_check, "_checked", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(whole_set, tmp_path / "set")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the indexes that were hashed."""
    lengths: list[int] = []

    def count(rows: np.ndarray) -> str:
        lengths.append(len(rows))
        return fingerprint(rows)

    monkeypatch.setattr(index_check, "fingerprint", count)
    return lengths


def age(folder: Path) -> None:
    path = folder / "index.npy"
    then = path.stat().st_mtime_ns - 10_000_000_000
    os.utime(path, ns=(then, then))


def swap(folder: Path) -> None:
    """Exchange two samples of a shard, which every other check at opening accepts."""
    rows = np.load(folder / "index.npy")
    rows[[3, 4]] = rows[[4, 3]]
    np.save(folder / "index.npy", rows)


def test_swapped_rows_are_refused(folder: Path) -> None:
    ShardSet.open(folder)
    swap(folder)
    with pytest.raises(
        UserError, match=r"index\.npy: the index was changed after .*\n  fix: .*all4one data index"
    ):
        ShardSet.open(folder)


def test_an_index_is_hashed_once_in_a_process(folder: Path, hashed: list[int]) -> None:
    age(folder)
    for _ in range(3):
        ShardSet.open(folder)
    assert hashed == [90]
    swap(folder)
    with pytest.raises(UserError, match="was changed"):
        ShardSet.open(folder)
    assert hashed == [90, 90]


def test_a_file_that_may_still_change_is_hashed_again(folder: Path, hashed: list[int]) -> None:
    os.utime(folder / "index.npy")
    ShardSet.open(folder)
    ShardSet.open(folder)
    assert hashed == [90, 90]


def test_a_large_index_is_hashed_once_on_a_machine(
    folder: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_check, "_LARGE", 1)
    age(folder)
    ShardSet.open(folder)
    monkeypatch.setattr(index_check, "_checked", set())  # as in another process
    ShardSet.open(folder)
    assert hashed == [90]
    swap(folder)
    with pytest.raises(UserError, match="was changed"):
        ShardSet.open(folder)


def test_a_cache_folder_that_cannot_be_written_does_no_harm(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_check, "_LARGE", 1)
    (tmp_path / "cache").write_text("a file")
    age(folder)
    assert len(ShardSet.open(folder)) == 90


def test_the_hash_of_parts_is_the_hash_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ShardSet.open(folder)
    monkeypatch.setattr("data_pipelines.shards.index._HASHED", 7)
    assert fingerprint(whole.index) == whole.fingerprint
