import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import check
from data_pipelines.sources.image_sources import Source, digits, open_source

FILES = {
    "bee/1.jpg": b"bee one",
    "bee/2.JPEG": b"bee two",
    "ant/1.jpg": b"ant one",
    "ant/sub/1.jpg": b"ant sub",
}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def content(source: Source) -> list[tuple[str, bytes]]:
    return sorted(
        (source.classes[item.label] if item.label >= 0 else "", item.read()) for item in source.items
    )


EXPECTED = sorted((name.split("/")[0], data) for name, data in FILES.items())


def test_folder_and_tars_of_the_same_files_are_the_same_source(tmp_path: Path) -> None:
    inner = {
        f"{name}.tar": tar(
            tmp_path / f"{name}.tar", {k[4:]: v for k, v in FILES.items() if k.startswith(name)}
        ).read_bytes()
        for name in ("ant", "bee")
    }
    sources = [
        open_source(folder(tmp_path / "folder", FILES)),
        open_source(tar(tmp_path / "flat.tar", FILES)),
        open_source(tar(tmp_path / "rooted.tar", {f"train/{k}": v for k, v in FILES.items()})),
        open_source(tar(tmp_path / "nested.tar", inner)),
    ]
    for source in sources:
        assert source.classes == ("ant", "bee")
        assert content(source) == EXPECTED


def test_keys_are_unique_short_and_without_dots(tmp_path: Path) -> None:
    names = [
        "a.b.c.jpg",
        "a.b.d.jpg",
        "é.jpg",
        "è.jpg",
        "x/y.jpg",
        "x-y.jpg",
        "1.png",
        "1.jpg",
        "z" * 200 + ".jpg",
    ]
    source = open_source(folder(tmp_path, {f"class.one/{name}": b"x" for name in names}))
    keys = [item.key for item in source.items]
    assert len(set(keys)) == len(names)
    for key in keys:
        assert key.replace("-", "").replace("_", "").isalnum()
        assert key.isascii()
        assert len(key) < 96


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    folder(tmp_path / "all", FILES)
    (tmp_path / "subset").mkdir()
    (tmp_path / "subset" / "bee").symlink_to(tmp_path / "all" / "bee")
    assert open_source(tmp_path / "subset").classes == ("bee",)


def test_a_link_back_adds_no_class_and_no_image(tmp_path: Path) -> None:
    root = folder(tmp_path / "all", FILES)
    plain = open_source(root)
    (root / "again").symlink_to(root)
    (root / "bee" / "up").symlink_to(root)
    assert content(open_source(root)) == content(plain)


def test_images_without_class_folders_are_unlabeled(tmp_path: Path) -> None:
    source = open_source(
        folder(tmp_path, {"1.jpg": b"1", "2.png": b"2", "README.md": b"", ".hidden.jpg": b""})
    )
    assert source.classes == ()
    assert [item.label for item in source.items] == [-1, -1]


def test_labels_from_a_file(tmp_path: Path) -> None:
    path = tar(tmp_path / "val.tar", {"1.JPEG": b"1", "2.JPEG": b"2", "3.JPEG": b"3"})
    labels = tmp_path / "labels.txt"
    labels.write_text("1.JPEG bee\n2.JPEG ant\n3.JPEG bee\n\n")
    source = open_source(path, labels)
    assert content(source) == [("ant", b"2"), ("bee", b"1"), ("bee", b"3")]


def test_classes_of_a_devkit_that_have_no_image_count(tmp_path: Path, devkit: Callable[..., Path]) -> None:
    path = tar(tmp_path / "val.tar", {f"ILSVRC2012_val_{n:08}.JPEG": b"%d" % n for n in (3, 1, 2)})
    source = open_source(path, devkit(truth="2\n3\n2\n"))
    assert source.classes == ("n01", "n02", "n03"), "as the set of the training tar numbers them"
    assert content(source) == [("n01", b"1"), ("n01", b"3"), ("n03", b"2")]


def test_labels_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    bare = folder(tmp_path / "bare", {"1.jpg": b"1"})
    with pytest.raises(UserError, match="label file cannot be read"):
        open_source(bare, tmp_path / "none.txt")


def test_a_mixed_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"but 1 are not, such as 'stray\.jpg'"):
        open_source(folder(tmp_path, FILES | {"stray.jpg": b""}))


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: tar(path, {})])
def test_an_empty_source_is_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path / "empty")  # type: ignore[operator]
    with pytest.raises(UserError, match="contains no images"):
        open_source(tmp_path / "empty")


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        open_source(tmp_path / "none")


def test_digits_are_a_stratified_split() -> None:
    parts = digits()
    assert {name: len(part.items) for name, part in parts.items()} == {"train": 1501, "validation": 296}
    for part in parts.values():
        counts = Counter(item.label for item in part.items)
        assert len(counts) == 10
        assert max(counts.values()) - min(counts.values()) <= 0.1 * max(counts.values())
        header = check(part.items[0].read(), decode=True)
        assert (header.width, header.height) == (32, 32)
    assert not {i.key for i in parts["train"].items} & {i.key for i in parts["validation"].items}
