import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.loading.image_file_loader import PictureLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.sources.image_files import pictures

SETTINGS = DataSettings(
    executor="opencv",
    decode_threads=2,
    views=(ViewSettings(size=16), ViewSettings(size=16)),
    eval_resize=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def png(level: int, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def make_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path):
    """Images in a folder, in its folders, in a tar and in a tar of tars, and much that is none."""
    root = tmp_path / "root"
    for name, level in (("b.png", 20), ("a/z.PNG", 10), ("c/d/e.webp", 40)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(level))
    for name in ("notes.txt", ".hidden.png", ".cache/x.png", "a/__MACOSX/y.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(200))
    make_tar(root / "c" / "s.tar", {"k.png": png(50), "k.cls": b"3", ".x.png": png(1), "l/m.png": png(60)})
    inner = make_tar(tmp_path / "inner.tar", {"i.png": png(70), "note": b"x"}).read_bytes()
    make_tar(tmp_path / "outer.tar", {"n01.tar": inner, "o.png": png(80)})
    return root


def test_images_of_folders_and_tars_in_order(folder):
    found = {str(p.name).removeprefix(f"{folder}/"): p.content.read() for p in pictures(folder)}
    assert list(found) == ["b.png", "a/z.PNG", "c/s.tar/k.png", "c/s.tar/l/m.png", "c/d/e.webp"]
    assert list(found.values()) == [png(20), png(10), png(50), png(60), png(40)]
    outer = folder.parent / "outer.tar"
    assert [p.name for p in pictures(outer)] == [f"{outer}/n01.tar/i.png", f"{outer}/o.png"]
    assert [p.content.read() for p in pictures(outer)] == [png(70), png(80)]
    assert [p.name for p in pictures(folder / "notes.txt")] == [
        str(folder / "notes.txt")
    ]  # named by the user


def test_a_link_is_followed_unless_it_leads_back(tmp_path):
    root = tmp_path / "root"
    for name in ("root/a.png", "elsewhere/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(10))
    (root / "other").symlink_to(tmp_path / "elsewhere")
    (root / "self").symlink_to(root)
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    assert [p.name for p in pictures(root)] == [f"{root}/a.png", f"{root}/other/b.png"]


def test_names_that_are_no_text_become_text(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffa.png")).write_bytes(png(9))
    (found,) = pictures(tmp_path)
    assert found.name == f"{tmp_path}/\\xffa.png"
    assert found.content.read() == png(9)


def test_what_is_missing_or_no_tar_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        list(pictures(tmp_path / "absent"))
    (tmp_path / "not.tar").write_bytes(b"text" * 300)
    with pytest.raises(UserError, match="the tar cannot be read"):
        list(pictures(tmp_path))


@pytest.mark.parametrize("executor", ["opencv", "dali"])
def test_bad_pictures_are_left_out_and_named(tmp_path, executor):
    settings = SETTINGS.model_copy(update={"executor": executor})
    levels = {}
    for number in range(10):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(25 * number))
        levels[str(path)] = 25 * number
    (tmp_path / "1.png").write_bytes(b"no image")
    whole = png(75, side=64)
    (tmp_path / "3.png").write_bytes(whole[:60] + bytes(20) + whole[80:])  # header and end are right
    (tmp_path / "8.png").write_bytes(whole[:-30])
    bad = [str(tmp_path / f"{number}.png") for number in (1, 3, 8)]
    with PictureLoader(pictures(tmp_path), settings, batch=4, device=torch.device("cpu")) as loader:
        batches = list(loader)
    assert [len(batch.names) for batch in batches] == [2, 4, 1]
    names = [name for batch in batches for name in batch.names]
    assert names == [name for name in levels if name not in bad]
    images = torch.cat([batch.images for batch in batches])
    assert images.shape == (7, 3, 16, 16)
    wanted = np.array([levels[name] for name in names]) / 255 * 2 - 1
    np.testing.assert_allclose(
        images.numpy(), np.broadcast_to(wanted[:, None, None, None], images.shape), atol=1e-6
    )
    assert list(loader.bad) == bad
    assert loader.bad[bad[0]] == "not a JPEG, PNG or WebP image"
    assert loader.bad[bad[1]] == "cannot be decoded"
    assert loader.bad[bad[2]] == "truncated"


def test_pictures_are_listed_no_further_than_batches_are_read_ahead(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(png(30))
    listed = 0

    def many():
        nonlocal listed
        while True:
            listed += 1
            yield from pictures(path)

    with PictureLoader(many(), SETTINGS, batch=4, device=torch.device("cpu")) as loader:
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        batches.close()
    assert listed <= 4 * (3 + SETTINGS.prefetch + 2)


def test_a_listing_that_fails_on_the_way_raises_where_it_is_due(tmp_path):
    (tmp_path / "a.png").write_bytes(png(30))
    (tmp_path / "b.tar").write_bytes(make_tar(tmp_path / "x", {"k.png": png(1)}).read_bytes()[:700])
    with (
        PictureLoader(pictures(tmp_path), SETTINGS, batch=1, device=torch.device("cpu")) as loader,
        pytest.raises(UserError, match="tar"),
    ):
        list(loader)


def test_images_of_other_formats_are_loaded_and_the_rest_is_counted(tmp_path, caplog):
    Image.open(io.BytesIO(png(30))).save(tmp_path / "a.bmp")
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "c").write_text("text")
    with PictureLoader(pictures(tmp_path), SETTINGS, batch=4, device=torch.device("cpu")) as loader:
        assert [name for batch in loader for name in batch.names] == [str(tmp_path / "a.bmp")]
    assert "skipped 2 files that are no images: .txt 1, no suffix 1" in caplog.text
