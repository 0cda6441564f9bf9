import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from built_sets import OPTIONS, files

from data_pipelines.build import builder, shard_writer
from data_pipelines.build.builder import BuildOptions, build, drop_notes
from data_pipelines.errors import UserError
from data_pipelines.imaging.recode import Recoding
from data_pipelines.inspect.verify import verify
from data_pipelines.shards.index import read_quarantine
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import Item, Place, Source


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_matter(source: Source, whole_set: Path, tmp_path: Path, workers: int) -> None:
    done: list[int] = []
    build(source, tmp_path / "out", OPTIONS, workers=workers, report=done.append)
    assert files(tmp_path / "out") == files(whole_set)
    assert done == [25, 50, 75, 90]


@pytest.mark.parametrize("limit", [5_000, 20_480, 100_000])
def test_shards_keep_to_their_size(source: Source, tmp_path: Path, limit: int) -> None:
    record = build(source, tmp_path, BuildOptions(shard_bytes=limit))
    assert sum(shard.samples for shard in record.shards) == 90
    for shard in record.shards:
        assert shard.size <= limit or shard.samples == 1
        assert (tmp_path / shard.name).stat().st_size == shard.size


def test_other_seeds_spread_otherwise(source: Source, whole_set: Path, tmp_path: Path) -> None:
    build(source, tmp_path, OPTIONS._replace(seed=1))
    ours, theirs = (ShardSet.open(folder).index["label"].tolist() for folder in (tmp_path, whole_set))
    assert ours != theirs
    assert sorted(ours) == sorted(theirs)


def test_bad_images_are_quarantined_with_their_reasons(
    source: Source, encode: Callable[..., bytes], tmp_path: Path
) -> None:
    whole = source.items[0].content
    assert isinstance(whole, bytes)
    hurt = bytearray(encode(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8), "PNG"))
    hurt[900:1000] = bytes(100)
    bad = {
        "cut": (whole[:-30], "truncated"),
        "text": (b"hello", "not a JPEG, PNG or WebP image"),
        "dot": (encode(np.zeros((1, 1, 3), np.uint8), "PNG"), "shorter side below 8 pixels"),
        "rope": (encode(np.zeros((8, 300, 3), np.uint8), "PNG"), "aspect ratio above 20"),
        "hurt": (bytes(hurt), "cannot be decoded"),
        "gone": (Place(tmp_path / "none.jpg", 0, 10), "cannot be read: No such file or directory"),
    }
    items = source.items + [Item(key, content, 0) for key, (content, _) in bad.items()]
    (tmp_path / "another.jpg").touch()
    record = build(Source(items, source.classes), tmp_path / "out", OPTIONS)
    assert (record.samples, record.quarantined) == (90, len(bad))
    found = {entry["key"]: entry for entry in read_quarantine(tmp_path / "out")}
    assert {key: entry["reason"] for key, entry in found.items()} == {
        k: reason for k, (_, reason) in bad.items()
    }
    assert all((tmp_path / "out" / entry["shard"]).exists() for entry in found.values())


@pytest.mark.parametrize("offset", [0, 512])
def test_a_source_that_goes_away_stops_the_build_which_goes_on_later(
    source: Source, tmp_path: Path, offset: int
) -> None:
    whole = source.items[0].content
    assert isinstance(whole, bytes)
    disk = tmp_path / "disk" / "class"
    places = [Place(disk / f"{i}.jpg", offset, len(whole)) for i in range(30)]
    items = [Item(f"k{i}", place, 0) for i, place in enumerate(places)]
    with pytest.raises(UserError, match=r"\.jpg: the source cannot be read: No such file"):
        build(Source(items, source.classes), tmp_path / "out", BuildOptions(shard_samples=10))
    disk.mkdir(parents=True)  # where a disk was mounted there is an empty folder
    with pytest.raises(UserError, match="the source cannot be read"):
        build(Source(items, source.classes), tmp_path / "out", BuildOptions(shard_samples=10))
    for place in places:
        place.file.write_bytes(bytes(offset) + whole)
    record = build(Source(items, source.classes), tmp_path / "out", BuildOptions(shard_samples=10))
    assert (record.samples, record.quarantined) == (30, 0)


def test_a_shard_of_bad_images_only_is_left_out(source: Source, tmp_path: Path) -> None:
    items = [source.items[0], Item("bad", b"no image", 0), source.items[1]]
    record = build(Source(items, source.classes), tmp_path, BuildOptions(shard_samples=1))
    assert record.samples == len(record.shards) == 2
    shards = ShardSet.open(tmp_path)
    assert {shards.read(0), shards.read(1)} == {items[0].content, items[2].content}


def test_a_source_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image of the source is usable: empty file, not a JPEG"):
        build(Source([Item("a", b"", 0), Item("b", b"text", 0)], ("x",)), tmp_path)
    with pytest.raises(UserError, match="interrupted"):
        ShardSet.open(tmp_path)


def test_unlabeled_images(source: Source, tmp_path: Path) -> None:
    build(Source([item._replace(label=-1) for item in source.items], ()), tmp_path, OPTIONS)
    shards = ShardSet.open(tmp_path)
    assert shards.num_classes == 0
    assert set(shards.index["label"]) == {-1}


def interrupt(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch, after: int, options: BuildOptions = OPTIONS
) -> None:
    """Begin a build that breaks off when it begins the shard of that number."""
    real = shard_writer._write_tar

    def breaking(temporary: Path, task: shard_writer.Task, *rest: Any) -> tuple[shard_writer.Note, int]:
        if task.number == after:
            temporary.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        return real(temporary, task, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "_write_tar", breaking)
        with pytest.raises(KeyboardInterrupt):
            build(source, out, options)


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_interrupted_build_does_not_open_and_goes_on(
    source: Source, whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    interrupt(source, tmp_path, monkeypatch, after)
    with pytest.raises(UserError, match="run the same build command again"):
        ShardSet.open(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("shard-*.tar")}
    assert len(before) == after
    build(source, tmp_path, OPTIONS)
    assert files(tmp_path) == files(whole_set)
    assert {name: (tmp_path / name).stat().st_ino for name in before} == before, "finished shards are kept"


def test_a_shard_that_changed_since_the_interruption_is_written_again(
    source: Source, whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(source, tmp_path, monkeypatch, 2)
    (tmp_path / "shard-000001.tar").write_bytes(b"")
    build(source, tmp_path, OPTIONS)
    assert files(tmp_path) == files(whole_set)


def test_another_build_does_not_go_on_from_these_shards(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(source, tmp_path, monkeypatch, 2)
    with pytest.raises(UserError, match=r"interrupted build of another source[\s\S]*--overwrite"):
        build(source, tmp_path, OPTIONS._replace(seed=1))
    build(source, tmp_path, OPTIONS._replace(seed=1), overwrite=True)
    assert len(ShardSet.open(tmp_path)) == 90


def test_a_finished_set_is_only_overwritten_if_asked(source: Source, tmp_path: Path) -> None:
    build(source, tmp_path, OPTIONS)
    with pytest.raises(UserError, match=r"contains a finished dataset[\s\S]*--overwrite"):
        build(source, tmp_path, OPTIONS)
    fewer = Source(source.items[:30], source.classes)
    build(fewer, tmp_path, BuildOptions(), overwrite=True)
    assert len(ShardSet.open(tmp_path)) == 30
    assert [path.name for path in tmp_path.glob("*.tar")] == ["shard-000000.tar"]


class Coy(NamedTuple):
    """An image whose size is not known before it is read."""

    data: bytes
    size: int

    def read(self) -> bytes:
        return self.data


def coy(source: Source, size: int) -> Source:
    """The source with a guess for every size."""
    items = [item._replace(content=Coy(item.read(), size)) for item in source.items]
    return Source(items, source.classes)


@pytest.mark.parametrize("guess", [10, 1_000, 100_000])
def test_images_of_unknown_size_fill_shards_that_keep_to_theirs(
    source: Source, tmp_path: Path, guess: int
) -> None:
    record = build(coy(source, guess), tmp_path / "out", BuildOptions(shard_bytes=51_200))
    assert sum(shard.samples for shard in record.shards) == 90
    assert all(shard.size <= 51_200 for shard in record.shards)
    known = build(source, tmp_path / "known", BuildOptions(shard_bytes=51_200))
    assert len(record.shards) <= 1.3 * len(known.shards), "a sample of the images foresees their sizes"


def test_images_larger_than_foreseen_go_to_further_shards(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_SAMPLE", 0)  # so that the guesses stay as wrong as they are
    options = BuildOptions(shard_bytes=51_200, shard_samples=40)
    bad = Item("bad", b"no image", 0)
    guessed = coy(Source([*source.items, bad], source.classes), 10)
    record = build(guessed, tmp_path / "one", options)
    names = [shard.name for shard in record.shards]
    assert names[:2] == ["shard-000000.tar", "shard-000000_001.tar"]
    assert names == sorted(path.name for path in (tmp_path / "one").glob("*.tar"))
    assert all(shard.size <= 51_200 for shard in record.shards)
    assert (record.samples, record.quarantined) == (90, 1)
    shards = ShardSet.open(tmp_path / "one")
    assert sorted(shards.read(n) for n in range(90)) == sorted(item.read() for item in source.items)
    build(guessed, tmp_path / "two", options, workers=3)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    interrupt(guessed, tmp_path / "three", monkeypatch, 2, options)
    (tmp_path / "three" / "shard-000001_001.tar").unlink()
    (tmp_path / "three" / "shard-000002_004.tar").write_bytes(b"of images that have changed since")
    build(guessed, tmp_path / "three", options)
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_recoded_images_are_the_same_after_an_interruption(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS._replace(recoding=Recoding(shorter=42, quality=80))
    build(source, tmp_path / "straight", options)
    interrupt(source, tmp_path / "broken", monkeypatch, 2, options)
    with pytest.raises(UserError, match="interrupted build of another source or with other options"):
        build(source, tmp_path / "broken", options._replace(recoding=Recoding(shorter=42, quality=81)))
    build(source, tmp_path / "broken", options, workers=2)
    assert files(tmp_path / "straight") == files(tmp_path / "broken")
    index = ShardSet.open(tmp_path / "straight").index
    assert np.minimum(index["width"], index["height"]).max() == 42
    assert index["size"].sum() < sum(item.size for item in source.items)
    assert verify(tmp_path / "straight", decode=True)[0].bad == []


def test_a_disk_that_has_room_for_recoded_images_is_not_refused(
    encode: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 80, 80, 3), dtype=np.uint8)
    source = Source([Item(f"{n}", encode(pixels, "PNG"), 0) for n, pixels in enumerate(noise)], ("x",))
    options = OPTIONS._replace(recoding=Recoding(shorter=8))
    size = sum(shard.size for shard in build(source, tmp_path / "roomy", options).shards)
    assert size < 0.2 * sum(item.size for item in source.items)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    build(source, tmp_path / "tight", options)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size // 2))
    with pytest.raises(UserError, match="the disk is full"):
        build(source, tmp_path / "full", options)


def test_items_of_a_run_stay_together(source: Source, tmp_path: Path) -> None:
    runs = (30, 1, 29, 30)
    record = build(Source(source.items, source.classes, runs), tmp_path, BuildOptions(shard_samples=100))
    assert record.samples == 90
    shards = ShardSet.open(tmp_path)
    found = [int(shards.key(number).rpartition("-")[2]) for number in range(90)]
    starts = [0, 30, 31, 60]
    blocks = [list(range(start, start + run)) for start, run in zip(starts, runs, strict=True)]
    order = sorted(range(4), key=lambda run: found.index(starts[run]))
    assert found == [number for run in order for number in blocks[run]]
    assert order != [0, 1, 2, 3]


def test_a_build_that_keeps_its_notes_finds_all_done(source: Source, tmp_path: Path) -> None:
    first = build(source, tmp_path, OPTIONS, keep_notes=True)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.tar")}
    assert build(source, tmp_path, OPTIONS, keep_notes=True) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.tar")} == times
    with pytest.raises(UserError, match="contains a finished dataset"):
        build(source, tmp_path, OPTIONS._replace(seed=1))
    drop_notes(tmp_path)
    with pytest.raises(UserError, match="contains a finished dataset"):
        build(source, tmp_path, OPTIONS)
