import io
import zipfile
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.sources.image_sources import open_source
from data_pipelines.sources.items import Place
from data_pipelines.sources.zips import Deflated, zip_members

FILES = {
    "ant/1.jpg": b"ant one" * 20,
    "bee/1.jpg": b"bee one" * 30,
    "bee/2.JPEG": b"bee two",
    "bee/._2.JPEG": b"of macOS",
    "__MACOSX/bee/._1.jpg": b"of macOS",
}


def packed(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("root", ["", "train/"])
def test_a_zip_is_a_source_of_class_folders(tmp_path: Path, method: int, root: str) -> None:
    files = {root + name: data for name, data in FILES.items() if not name.startswith("__")}
    source = open_source(packed(tmp_path / "images.zip", files, method))
    assert source.classes == ("ant", "bee")
    found = {(source.classes[item.label], item.read()) for item in source.items}
    assert found == {(name[:3], data) for name, data in FILES.items() if "/._" not in name}


def test_members_are_read_in_place_and_their_sizes_are_known(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(zipfile.ZipInfo("a.jpg"), b"stored")
        out.writestr("b/", b"")
        out.writestr("b/c.jpg", b"deflated" * 9, zipfile.ZIP_DEFLATED)
        with out.open("streamed.jpg", "w") as member:  # its sizes follow its content
            member.write(b"streamed")
    stored, deflated, streamed = zip_members(path)
    assert [str(one.name) for one in (stored, deflated, streamed)] == ["a.jpg", "b/c.jpg", "streamed.jpg"]
    assert (type(stored.content), type(deflated.content)) == (Place, Deflated)
    assert [one.content.size for one in (stored, deflated, streamed)] == [6, 72, 8]
    assert [one.content.read() for one in (stored, deflated, streamed)] == [
        b"stored",
        b"deflated" * 9,
        b"streamed",
    ]


def test_a_zip_behind_other_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "self_extracting.zip"
    path.write_bytes(b"a program" * 100 + packed(tmp_path / "plain.zip", FILES).read_bytes())
    assert {one.content.read() for one in zip_members(path)} == set(FILES.values())


def test_damaged_bytes_are_bad_images(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.zip", {"a.jpg": bytes(range(256)) * 4})
    (member,) = zip_members(path)
    data = bytearray(path.read_bytes())
    assert isinstance(member.content, Deflated)
    data[member.content.offset : member.content.offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(UnusableImage, match="cannot be decompressed"):
        member.content.read()


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("../a.jpg", zipfile.ZIP_STORED, r"member '\.\./a\.jpg' points outside"),
        ("/a.jpg", zipfile.ZIP_STORED, r"member '/a\.jpg' points outside"),
        ("a.jpg", zipfile.ZIP_LZMA, r"member 'a\.jpg' is compressed by lzma"),
        ("a.jpg", zipfile.ZIP_BZIP2, r"member 'a\.jpg' is compressed by bzip2"),
    ],
)
def test_members_that_cannot_be_trusted_or_read_are_refused(
    tmp_path: Path, name: str, method: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        list(zip_members(packed(tmp_path / "images.zip", {name: b"x" * 99}, method)))


def test_a_password_is_said(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.zip", {"a.jpg": b"x"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the table at the end
    path.write_bytes(data)
    with pytest.raises(UserError, match="needs a password"):
        list(zip_members(path))


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "images.zip"
    if content is None:
        whole = io.BytesIO(packed(tmp_path / "whole.zip", FILES).read_bytes())
        content = whole.read(200)  # cut short
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"the zip cannot be read: .*not a zip file"):
        open_source(path)
