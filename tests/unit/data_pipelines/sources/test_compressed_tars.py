import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.sources.compressed_tars import can_unpack, unpacked


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.tar.gz", gzip.compress),
        ("a.TGZ", gzip.compress),
        ("a.tar.bz2", bz2.compress),
        ("a.tar.xz", lzma.compress),
    ],
)
def test_a_compressed_tar_is_unpacked_beside_the_output_and_removed(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(b"the tar"))
    assert can_unpack(path)
    with unpacked(path, tmp_path / "sets" / "photos") as tar:
        assert tar == tmp_path / "sets" / ".photos.unpacked" / "a.tar"
        assert tar.read_bytes() == b"the tar"
    assert list((tmp_path / "sets").iterdir()) == []


@pytest.mark.parametrize("name", ["a.tar", "a.gz", "a.jpg.gz", "a.tar.zst"])
def test_other_files_are_not_unpacked(name: str) -> None:
    assert not can_unpack(Path(name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar.gz", gzip.compress(b"the tar" * 99)[:-9]),
        ("a.tar.gz", b"no gzip"),
        ("a.tar.bz2", b"no bzip2"),
        ("a.tar.xz", lzma.compress(b"the tar")[:-20]),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_left(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with (
        pytest.raises(UserError, match="the tar cannot be decompressed") as refused,
        unpacked(path, tmp_path / "out"),
    ):
        pass
    assert refused.value.where == str(path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_full_disk_is_said(small_disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(4 << 20)))
    with (
        pytest.raises(UserError, match="No space left on device") as refused,
        unpacked(path, small_disk / "out"),
    ):
        pass
    assert "free space" in str(refused.value.fix)
    assert list(small_disk.iterdir()) == []
