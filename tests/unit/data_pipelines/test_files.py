from pathlib import Path

import pytest

from data_pipelines.files import replacing, write_whole


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        _write_and_fail(temporary)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _write_and_fail(path: Path) -> None:
    path.write_bytes(b"ne")
    (path.parent / "missing").read_bytes()


@pytest.mark.parametrize("small_disk", ["64k"], indirect=True)
def test_a_full_disk_leaves_the_old_content(small_disk: Path) -> None:
    path = small_disk / "file"
    write_whole(path, b"old")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert list(small_disk.iterdir()) == [path]
