import errno
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.shards.index import ROW, write_index
from data_pipelines.shards.shard_set import BadSample, ShardSet
from data_pipelines.sources.image_sources import Source


@pytest.fixture
def folder(whole_set: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_set, tmp_path / "set")


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        ShardSet.open(folder)
    return str(error.value)


def test_an_opened_set_gives_what_was_written(shards: ShardSet, source: Source) -> None:
    assert (len(shards), shards.num_classes, shards.classes) == (90, 3, ("ant", "bee", "cat"))
    assert shards.shard_sizes == [25, 25, 25, 15]
    by_key = {item.key: item for item in source.items}
    for sample in range(90):
        name, _, key = shards.key(sample).partition("/")
        item = by_key.pop(key)
        assert shards.read(sample) == item.content
        assert shards.index["label"][sample] == item.label
        assert name == f"shard-{shards.index['shard'][sample]:06d}.tar"
    assert not by_key
    assert np.ptp(shards.index["label"][:25]) > 0, "classes must be spread over the shards"


def test_reads_from_many_threads(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.shards.local_files._MAX_OPEN", 1)
    expected = [shards.read(sample) for sample in range(90)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for sample in np.random.default_rng(seed).integers(0, 90, 300):
            if shards.read(int(sample)) != expected[sample]:
                wrong.append(int(sample))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("label", 2, "CRC differs"),
        ("width", 7, "CRC differs"),
        ("shard", 9, "outside of the shards"),
        ("shard", -1, "outside of the shards"),
        ("size", 2**32 - 1, "outside of the shards"),
        ("offset", -5, "outside of the shards"),
    ],
)
def test_a_row_of_the_index_that_changes_while_open_is_a_bad_sample(
    folder: Path, field: str, value: int, reason: str
) -> None:
    shards = ShardSet.open(folder)
    index = np.load(folder / "index.npy", mmap_mode="r+")
    index[field][3] = value
    index.flush()
    with pytest.raises(BadSample, match=reason):
        shards.read(3)
    assert shards.key(3)
    assert shards.read(4)


def test_a_flipped_byte_is_a_bad_sample(folder: Path) -> None:
    shards = ShardSet.open(folder)
    path = folder / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(shards.index["offset"][30]) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadSample, match="CRC differs"):
        ShardSet.open(folder).read(30)


def test_a_shard_that_shrinks_while_open_gives_bad_samples(folder: Path) -> None:
    shards = ShardSet.open(folder)
    path = folder / "shard-000003.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadSample, match="cut short"):
        shards.read(89)
    assert shards.key(89).startswith("shard-000003.tar")


def test_a_shard_that_vanishes_while_open_gives_bad_samples(folder: Path) -> None:
    shards = ShardSet.open(folder)
    (folder / "shard-000003.tar").unlink()
    with pytest.raises(BadSample, match="cannot be read"):
        shards.read(89)
    assert shards.key(89).startswith("shard-000003.tar@")


def test_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    assert "contains no shards" in refused(tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "index.npy"])
def test_a_missing_index_names_the_command_that_mends_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"all4one data index {folder}" in refused(folder)


def test_a_changed_shard_is_named(folder: Path) -> None:
    with (folder / "shard-000002.tar").open("ab") as file:
        file.write(bytes(512))
    message = refused(folder)
    assert "shard-000002.tar" in message
    assert f"all4one data index {folder}" in message


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "shard-000001.tar").unlink()
    assert "shard-000001.tar: the shard is missing" in refused(folder)


def test_an_index_of_another_set_is_refused(folder: Path) -> None:
    rows = np.load(folder / "index.npy")
    np.save(folder / "index.npy", rows[:-1])
    assert "another dataset" in refused(folder)
    rows["shard"][40] = 0
    rows = np.sort(rows, order=["shard", "offset"])
    np.save(folder / "index.npy", rows)
    assert "belongs to other shards" in refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("../x.tar", "a/../x.tar", "a//x.tar", "./x.tar", ".a/x.tar", "a/.x.tar"),
        *("/x.tar", "x\\y.tar", ".x.tar", "x.txt", "x\0.tar"),
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    record = json.loads((folder / "dataset.json").read_text())
    record["shards"][1][0] = name
    (folder / "dataset.json").write_text(json.dumps(record))
    assert f"not an index of all4one: {name!r} is not the path of a shard" in refused(folder)


def test_rubbish_and_other_versions_are_refused(folder: Path) -> None:
    (folder / "index.npy").write_bytes(b"rubbish")
    assert "cannot be read" in refused(folder)
    record = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(record | {"version": 99}))
    assert "version 99" in refused(folder)
    (folder / "dataset.json").write_text("{}")
    assert "not an index of all4one" in refused(folder)


def test_copies_read_on_their_own(shards: ShardSet) -> None:
    copy = shards.copy()
    assert copy.read(7) == shards.read(7)
    assert copy.key(7) == shards.key(7)
    assert copy.files is not shards.files
    assert (copy.fingerprint, copy.classes, len(copy)) == (shards.fingerprint, shards.classes, 90)


def test_fingerprints_tell_sets_apart(folder: Path, whole_set: Path) -> None:
    assert ShardSet.open(folder).fingerprint == ShardSet.open(whole_set).fingerprint
    rows = np.load(folder / "index.npy")
    rows["label"][0] = 2 - rows["label"][0] // 2
    assert rows.dtype == ROW
    shards = [(path.name, path.stat().st_size) for path in sorted(folder.glob("*.tar"))]
    write_index(folder, rows, classes=("ant", "bee", "cat"), shards=shards, quarantined=[])
    assert ShardSet.open(folder).fingerprint != ShardSet.open(whole_set).fingerprint


def test_an_index_that_cannot_be_written_is_told(folder: Path) -> None:
    rows = np.load(folder / "index.npy")
    (folder / ".index.npy.tmp").mkdir()
    with pytest.raises(UserError, match="the index cannot be written: Is a directory"):
        write_index(folder, rows, classes=("a",), shards=[("x.tar", 1)] * 4, quarantined=[])
    assert len(ShardSet.open(folder)) == len(rows), "the set stays what it was"


def test_a_disk_that_is_full_when_it_is_flushed_leaves_the_set_what_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, rows = ShardSet.open(folder), np.load(folder / "index.npy")
    monkeypatch.setattr("data_pipelines.shards.index.sync", full)
    monkeypatch.setattr("data_pipelines.files.sync", full)
    with pytest.raises(UserError, match="No space left"):
        write_index(folder, rows[:1], classes=("a",), shards=[("x.tar", 1)], quarantined=[])
    assert ShardSet.open(folder).fingerprint == before.fingerprint


def test_a_record_that_cannot_be_read_is_told(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    (folder / "dataset.json").mkdir()
    assert "cannot be read: Is a directory" in refused(folder)


def test_a_subset_reads_the_same_bytes_under_ids_of_its_own(shards: ShardSet) -> None:
    chosen = np.array([1, 60, 74, 89])  # of the first, the third and the last of four shards
    part = shards.subset(chosen)
    for again in (part, part.copy(), part.copy().subset(np.arange(4))):
        assert len(again) == 4
        assert again.shard_sizes == [1, 0, 2, 1]
        assert [again.read(i) for i in range(4)] == [shards.read(i) for i in chosen]
        assert [again.key(i) for i in range(4)] == [shards.key(i) for i in chosen]
    assert shards.shard_sizes == [25, 25, 25, 15]
