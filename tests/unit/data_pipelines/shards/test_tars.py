import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards.tars import Member, inner_members, members


def write(path: Path, contents: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


CONTENTS = {"a/1.jpg": b"one" * 300, "a/2.jpg": b"", "long/" + "x" * 150 + ".jpg": b"three"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_lies_where_it_is_said(tmp_path: Path, form: int) -> None:
    contents = {k: v for k, v in CONTENTS.items() if form != tarfile.USTAR_FORMAT or len(k) < 100}
    path = write(tmp_path / "a.tar", contents, form)
    data = path.read_bytes()
    assert {m.name: data[m.offset : m.offset + m.size] for m in members(path)} == contents


def test_members_of_a_tar_in_a_tar(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner.tar", CONTENTS).read_bytes()
    path = write(tmp_path / "outer.tar", {"first": b"x" * 700, "inner.tar": inner})
    outer = {m.name: m for m in members(path)}["inner.tar"]
    data = path.read_bytes()
    assert {m.name: data[m.offset : m.offset + m.size] for m in inner_members(path, outer)} == CONTENTS


@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg"])
def test_names_that_escape_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="points outside"):
        list(members(write(tmp_path / "a.tar", {name: b"x"})))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "is a link to 'elsewhere', not .*\n  fix: .*tar --dereference$"),
        (tarfile.LNKTYPE, "is a hard link to 'elsewhere', not .*\n  fix: .*tar --hard-dereference$"),
        (tarfile.CHRTYPE, "is a device or a pipe"),
        (tarfile.FIFOTYPE, "is a device or a pipe"),
    ],
)
def test_links_and_devices_are_refused_with_the_option_that_helps(
    tmp_path: Path, kind: bytes, message: str
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a/1.jpg")
        info.type, info.linkname = kind, "elsewhere"
        tar.addfile(info)
    with pytest.raises(UserError, match=message):
        list(members(path))


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with (tmp_path / "1.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    subprocess.run(["tar", "-S", "-cf", path, "-C", tmp_path, "1.jpg"], check=True)
    with pytest.raises(UserError, match=r"is a sparse file, not .*\n  fix: .*without the option --sparse"):
        list(members(path))


@pytest.mark.parametrize("kept", [0, 100, 1000, 1535, 2000, 2200, 3071])
def test_a_cut_tar_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "a.tar", {"1.jpg": b"x" * 1000, "2.jpg": b"y" * 1000})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be read"):
        list(members(path))


def test_a_broken_header_in_the_middle_is_no_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {f"{i}.jpg": b"x" * 600 for i in range(3)})
    data = bytearray(path.read_bytes())
    second = list(members(path))[1]
    data[second.offset - 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"cut short or corrupt at byte {second.offset - 512}"):
        list(members(path))


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    with pytest.raises(UserError, match="gunzip"):
        list(members(path))


def test_a_missing_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        list(members(tmp_path / "none.tar"))


def test_directories_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("./a/1.jpg"))
    assert list(members(path)) == [Member("a/1.jpg", 1024, 0)]


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_tar_without_end_blocks_is_read_and_doubted(tmp_path: Path, blocks: int) -> None:
    path = write(tmp_path / "a.tar", {"1.jpg": b"x" * 1000, "2.jpg": b"y" * 1000})
    path.write_bytes(path.read_bytes()[: 3072 + 512 * blocks])
    doubts: list[str] = []
    assert [m.name for m in members(path, doubts.append)] == ["1.jpg", "2.jpg"]
    assert [doubt.partition(" has ")[2][:13] for doubt in doubts] == ["no end blocks"] * (blocks == 0)


@pytest.mark.parametrize("padding", [0, 512, 3 * 65536 + 512])
def test_concatenated_tars_are_read_to_the_end(tmp_path: Path, padding: int) -> None:
    one = write(tmp_path / "1.tar", {"1.jpg": b"one"}).read_bytes()
    two = write(tmp_path / "2.tar", {"2.jpg": b"two", "3.jpg": b"three"}).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(one + bytes(padding) + two)
    data = path.read_bytes()
    found = {m.name: data[m.offset : m.offset + m.size] for m in members(path)}
    assert found == {"1.jpg": b"one", "2.jpg": b"two", "3.jpg": b"three"}


def test_other_data_behind_a_tar_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"1.jpg": b"one"})
    path.write_bytes(path.read_bytes() + b"signature" * 100)
    assert [m.name for m in members(path)] == ["1.jpg"]


def test_an_empty_tar_has_no_members(tmp_path: Path) -> None:
    assert list(members(write(tmp_path / "a.tar", {}))) == []
