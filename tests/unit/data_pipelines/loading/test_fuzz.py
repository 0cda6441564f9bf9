"""Bytes that were changed at random: each ends as a good sample, a quarantined one or a clear error."""

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.errors import UserError
from data_pipelines.imaging.augment import center_crop_params
from data_pipelines.imaging.backend import DecodeError
from data_pipelines.imaging.images import UnusableImage, check, decode_rgb
from data_pipelines.imaging.opencv import OpenCVBackend
from data_pipelines.shards.shard_set import BadSample, ShardSet
from data_pipelines.sources.existing_shards import index_folder

JPEGS, FILES, SEED = 5_000, 500, 7


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to eight changes: a bit, a run of bytes, a cut, an insertion, a piece moved."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        place, length = draw.randrange(len(out) + 1), draw.choice((1, 2, 16, 200))
        match draw.randrange(6):
            case 0 if place < len(out):
                out[place] ^= 1 << draw.randrange(8)
            case 1:
                out[place : place + length] = draw.randbytes(length)
            case 2:
                out[place : place + length] = bytes([draw.choice((0, 255))]) * length
            case 3:
                del out[place : place + length]
            case 4:
                out[place:place] = draw.randbytes(length)
            case _:
                out[place:place] = out[: min(length, len(out))]
        if draw.random() < 0.05:
            del out[draw.randrange(len(out) + 1) :]
    return bytes(out)


@pytest.fixture(scope="module")
def images(picture: Callable[..., np.ndarray], encode: Callable[..., bytes]) -> list[bytes]:
    color = [encode(picture(i, 40 + 3 * i, 70 - i), "JPEG", quality=80) for i in range(6)]
    progressive = encode(picture(7, 48, 48), "JPEG", progressive=True)
    return [*color, progressive, encode(picture(8, 40, 40), "PNG"), encode(picture(9, 40, 40), "WEBP")]


def test_mutated_images_are_good_or_refused(images: list[bytes]) -> None:
    draw = random.Random(SEED)
    good, reasons = 0, set()
    for number in range(JPEGS):
        data = mutated(images[number % len(images)], draw)
        try:
            header = check(data, decode=False)
            if header.width * header.height > 1_000_000:
                continue  # a changed size field: valid, and slow to decode
            pixels = decode_rgb(data, header)
        except UnusableImage as error:
            reasons.add(str(error))
            continue
        assert pixels.shape == (header.height, header.width, 3)
        good += 1
    assert JPEGS // 20 < good < JPEGS, "both outcomes are met"
    assert "" not in reasons
    assert {"truncated", "cannot be decoded", "not a JPEG, PNG or WebP image"} <= reasons


def test_a_batch_with_mutated_images_names_them_and_no_others(images: list[bytes]) -> None:
    draw = random.Random(SEED)
    with ThreadPoolExecutor(2) as pool:
        executor = OpenCVBackend(
            pool, threads=2, mean=(0, 0, 0), std=(1, 1, 1), device=torch.device("cpu"), dtype=torch.float32
        )
        finite, wrongly = True, list[int]()
        for _ in range(100):
            batch = [mutated(data, draw) if draw.random() < 0.5 else data for data in images]
            numbers = center_crop_params(np.full((len(batch), 2), 40), resize=32, crop=32)
            try:
                (view,) = executor.begin(batch, [numbers])()
                finite &= bool(view.isfinite().all())
            except DecodeError as refused:
                wrongly += [row for row in refused.rows if batch[row] == images[row]]
    assert finite
    assert not wrongly


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Path:
    from data_pipelines.build.builder import BuildOptions, build
    from data_pipelines.sources.image_sources import Item, Source

    folder = tmp_path_factory.mktemp("fuzz") / "set"
    items = [Item(f"sample-{i}", images[i % len(images)], i % 3) for i in range(12)]
    build(Source(items, ("a", "b", "c")), folder, BuildOptions(shard_samples=6))
    return folder


def test_mutated_files_of_a_set_give_the_right_samples_or_a_clear_error(small: Path, tmp_path: Path) -> None:
    true = ShardSet.open(small)
    wanted = {
        (true.read(i), int(true.index["label"][i]), *true.index[["width", "height"]][i])
        for i in range(len(true))
    }
    draw = random.Random(SEED)
    files = [path.name for path in small.iterdir() if path.suffix in {".tar", ".npy", ".json"}]
    told, read, reasons = 0, 0, set()
    for number in range(FILES):
        folder = tmp_path / str(number)
        shutil.copytree(small, folder)
        path = folder / files[number % len(files)]
        path.write_bytes(mutated(path.read_bytes(), draw))
        try:
            opened = ShardSet.open(folder)
            for sample in range(len(opened)):
                try:
                    data = opened.read(sample)
                except BadSample as error:
                    reasons.add(error.reason)
                    opened.key(sample)
                    continue
                row = opened.index[sample]
                assert (data, row["label"], row["width"], row["height"]) in wanted, "wrong, and not noticed"
                read += 1
        except UserError as error:
            told += bool(error.what)
        shutil.rmtree(folder)
    assert "CRC differs from the index" in reasons
    assert told > FILES // 10
    assert read > FILES // 2, "sets whose index was changed are refused as a whole"


def test_mutated_tars_are_indexed_right_or_refused(small: Path, tmp_path: Path) -> None:
    true = ShardSet.open(small)
    labels = {true.read(i): int(true.index["label"][i]) for i in range(len(true))}
    draw = random.Random(SEED)
    indexed = told = 0
    for number in range(FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shard = folder / "shard-000000.tar"
        shard.write_bytes(mutated((small / shard.name).read_bytes(), draw))
        try:
            index_folder(folder)
            opened = ShardSet.open(folder)
        except UserError as error:
            told += bool(error.what)
        else:
            indexed += 1
            for sample in range(len(opened)):
                label = int(opened.index["label"][sample])
                assert labels.get(opened.read(sample), label) == label
        shutil.rmtree(folder)
    assert indexed > FILES // 20
    assert indexed + told == FILES
