"""Features of images that are no training set, in files that others read."""

import io
import tarfile

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from trained_runs import NARROW, make_run

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.errors import UserError
from data_pipelines.sources.image_sources import Item, Source
from launch.evaluate.embed import embed_images
from trainer.exports.export import export_backbone
from trainer.inference.embed import Rows
from trainer.inference.feature_files import feature_file
from trainer.inference.loaded_backbones import load_backbones


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run and its method, of images of 32 pixels that are not resized."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", *NARROW, "data.eval_resize=32")


def image(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def png(number):
    file = io.BytesIO()
    Image.fromarray(image(number)).save(file, "PNG")
    return file.getvalue()


def wanted(run, numbers, which="online"):
    """Features [N, F] of images by number, without any of our loaders."""
    folder, method = run
    data = folder.read_config().data
    pixels = torch.from_numpy(np.stack([image(n) for n in numbers])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    with torch.no_grad():
        return method.evaluation_backbones()[which]((pixels - mean) / std).numpy()


def make_shards(folder, numbers):
    items = [Item(f"image-{n}", png(n), n % 3 if n % 2 else -1) for n in numbers]
    build(Source(items, ("a", "b", "c")), folder, BuildOptions(shard_samples=4))
    return folder


@pytest.fixture
def sources(tmp_path):
    """Four kinds of source, as arguments, with the numbers of their images and what their keys end in."""
    for n in range(5):
        path = tmp_path / "folder" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(n))
    (tmp_path / "folder" / "2.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for n in (5, 6):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(png(n))
            tar.addfile(info, io.BytesIO(png(n)))
    (tmp_path / "single.png").write_bytes(png(7))
    make_shards(tmp_path / "shards", range(8, 14))
    return [str(tmp_path / name) for name in ("folder", "images.tar", "single.png", "shards")]


def number_of(key):
    name = key.rsplit("/", 1)[1].removesuffix(".png").removeprefix("image-")
    return 7 if name == "single" else int(name)


def test_parquet_has_keys_labels_and_features(run, sources, tmp_path, capsys):
    embed_images(run[0].path, sources, tmp_path / "out.parquet", backbone=None, batch=3)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["key", "label", "embedding"]
    keys = table["key"].to_pylist()
    numbers = [number_of(key) for key in keys]
    assert numbers[:7] == [0, 1, 3, 4, 5, 6, 7]
    assert sorted(numbers[7:]) == list(range(8, 14))
    assert all(key.startswith(str(tmp_path)) for key in keys)
    assert table["label"].to_pylist() == [None] * 7 + [n % 3 if n % 2 else None for n in numbers[7:]]
    found = np.stack(table["embedding"].to_numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted(run, numbers), rtol=1e-5, atol=1e-5)
    said = capsys.readouterr()
    assert "13 images x 64 features" in said.out
    assert "1 skipped" in said.out
    assert f"skipped {sources[0]}/2.png: not a JPEG, PNG or WebP image" in said.err


def test_npy_has_a_line_of_text_a_row(run, sources, tmp_path):
    embed_images(run[0].path, sources, tmp_path / "deep" / "out.npy", backbone="momentum", batch=100)
    found = np.load(tmp_path / "deep" / "out.npy", mmap_mode="r")
    numbers = [number_of(key) for key in (tmp_path / "deep" / "out.txt").read_text().splitlines()]
    assert (found.shape, found.dtype) == ((13, 64), np.float32)
    np.testing.assert_allclose(found, wanted(run, numbers, "momentum"), rtol=1e-5, atol=1e-5)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["out.npy", "out.txt"]


@pytest.mark.slow
def test_an_exported_file_embeds_and_many_files_are_one_stream(run, tmp_path, monkeypatch):
    files = []
    for n in range(6):
        files.append(tmp_path / f"{n}.png")
        files[-1].write_bytes(png(n))
    file, _ = export_backbone(run[0].path, tmp_path / "net.safetensors")
    batches = []
    load = load_backbones

    def counting(source):
        trained = load(source)
        (network,) = trained.backbones.values()
        network.register_forward_hook(lambda module, images, out: batches.append(len(out)))
        return trained

    monkeypatch.setattr("launch.evaluate.embed.load_backbones", counting)
    embed_images(file, [str(f) for f in files], tmp_path / "out.npy", backbone=None, batch=4)
    assert batches == [4, 2]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted(run, range(6)), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"has no momentum backbone\. Available: exported"):
        embed_images(file, [str(f) for f in files], tmp_path / "out.npy", backbone="momentum", batch=4)


def test_a_sample_of_a_set_that_has_rotted_is_named(run, tmp_path, capsys):
    shards = make_shards(tmp_path / "shards", range(6))
    content = bytearray((shards / "shard-000000.tar").read_bytes())
    content[512 + 100] ^= 255
    (shards / "shard-000000.tar").write_bytes(content)
    embed_images(run[0].path, [str(shards)], tmp_path / "out.npy", backbone=None, batch=2)
    assert len(np.load(tmp_path / "out.npy")) == 5
    assert f"skipped {shards}/shard-000000.tar/image-" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({"a.png": b"x", "b.jpg": b"y"}, "out.npy", "none of 2 images is readable"),
        ({"notes.txt": b"x"}, "out.npy", "there are no images"),
        ({"a.png": png(1)}, "out.csv", "must end in .parquet or .npy"),
        ({"a.png": png(1)}, "images", "must end in .parquet or .npy"),
        ({"a.png": png(1)}, "images/a.png/out.npy", "its folder cannot be created"),
    ],
)
def test_wrong_use_is_one_message_and_leaves_what_was_there(run, tmp_path, content, name, message):
    (tmp_path / "images").mkdir()
    for file, data in content.items():
        (tmp_path / "images" / file).write_bytes(data)
    (tmp_path / "out.npy").write_bytes(b"before")
    with pytest.raises(UserError, match=message):
        embed_images(run[0].path, [str(tmp_path / "images")], tmp_path / name, backbone=None, batch=4)
    assert (tmp_path / "out.npy").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.npy"]


def test_a_missing_source_is_told_before_anything_is_read(run, tmp_path, sources, capsys):
    with pytest.raises(UserError, match=r"absent: there is no such file or folder"):
        embed_images(
            run[0].path, [*sources, str(tmp_path / "absent")], tmp_path / "o.npy", backbone=None, batch=4
        )
    assert capsys.readouterr().err == ""


def test_the_header_grows_with_the_rows_and_keys_stay_lines(tmp_path):
    with feature_file(tmp_path / "f.npy", 2) as write:
        for start in range(0, 1200, 400):
            keys = [f"{n}\n\\n" for n in range(start, start + 400)]
            features = np.arange(2 * start, 2 * start + 800, dtype=np.float32).reshape(400, 2)
            write(Rows(keys, None, features))
    np.testing.assert_array_equal(
        np.load(tmp_path / "f.npy"), np.arange(2400, dtype=np.float32).reshape(1200, 2)
    )
    lines = (tmp_path / "f.txt").read_text().splitlines()
    assert lines == [f"{n}\\n\\\\n" for n in range(1200)]


def test_row_groups_are_of_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.inference.feature_files.ROW_GROUP_BYTES", 160)
    with feature_file(tmp_path / "f.parquet", 4) as write:
        for start in range(0, 50, 5):
            write(Rows([str(n) for n in range(start, start + 5)], None, np.full((5, 4), start, np.float32)))
    file = pyarrow.parquet.ParquetFile(tmp_path / "f.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10] * 5
    assert file.read()["key"].to_pylist() == [str(n) for n in range(50)]
