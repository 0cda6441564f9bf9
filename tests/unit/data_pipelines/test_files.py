import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.files import replacing, require_place, require_writable, write_whole


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


def test_several_processes_replace_a_file_without_taking_each_other_s(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import sys; from pathlib import Path; from data_pipelines.files import write_whole\n"
        "for n in range(200): write_whole(Path(sys.argv[1]), sys.argv[2].encode() * 1000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, path, letter]) for letter in "ab"]
    assert [writer.wait(timeout=100) for writer in writers] == [0, 0]
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "deeper" / "file")
    assert (tmp_path / "new" / "deeper").is_dir()
    with pytest.raises(UserError, match="is a folder"):
        require_writable(tmp_path / "new")
    require_place(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="its folder cannot be created"):
        require_writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match="is not writable"):
        require_writable(Path("/proc/self/out"))
