import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer
from loader_batches import same, settings, take
from noise_sets import DATA, make_set

from data_pipelines.errors import UserError
from data_pipelines.inspect.verify import verify
from data_pipelines.shards.index import DATASET, read_quarantine, read_record
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder
from data_pipelines.sources.shard_samples import shard_paths

NESTED = {
    "shard-000000.tar": "part-00/a.tar",
    "shard-000001.tar": "part-00/b.tar",
    "shard-000002.tar": "part-01/deep/a.tar",
}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A set of 20 samples in three shards."""
    return make_set(tmp_path / "flat")


@pytest.fixture
def bare(flat: Path, tmp_path: Path) -> Path:
    """The shards of the flat set in subfolders, without an index."""
    folder = tmp_path / "nested"
    for name, nested in NESTED.items():
        (folder / nested).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / name, folder / nested)
    shutil.copy(flat / "classes.txt", folder)
    return folder


@pytest.fixture
def nested(bare: Path) -> Path:
    index_folder(bare)
    return bare


def test_the_names_are_sorted_relative_paths(nested: Path, flat: Path) -> None:
    assert [shard.name for shard in read_record(nested).shards] == list(NESTED.values())
    shards, same_shards = ShardSet.open(nested), ShardSet.open(flat)
    assert shards.fingerprint == same_shards.fingerprint
    assert shards.key(19) == "part-01/deep/a.tar/" + same_shards.key(19).partition("/")[2]
    assert [shards.read(sample) for sample in range(20)] == [same_shards.read(s) for s in range(20)]
    assert [report.name for report in verify(nested, workers=2)] == list(NESTED.values())


@pytest.mark.parametrize("read_ahead", [False, True])
def test_training_sees_the_samples_of_the_flat_set(nested: Path, flat: Path, read_ahead: bool) -> None:
    config = settings(read_ahead=read_ahead)
    opened = [ShardSet.open(folder, config) for folder in (nested, flat)]
    trained = [take(shards, config, 4, global_batch=8) for shards in opened]
    assert all(same(*pair) for pair in zip(*trained, strict=True))


def test_a_bad_image_is_quarantined_with_the_path_of_its_shard(bare: Path, flat: Path) -> None:
    path = bare / "part-01" / "deep" / "a.tar"
    data = bytearray(path.read_bytes())
    offset = int(ShardSet.open(flat).index["offset"][18])
    data[offset : offset + 8] = b"no image"
    path.write_bytes(data)
    assert index_folder(bare).samples == 19
    assert [entry["shard"] for entry in read_quarantine(bare)] == ["part-01/deep/a.tar"]


def test_hidden_folders_and_circles_are_skipped(bare: Path, flat: Path) -> None:
    for name in (".hidden", "__MACOSX", "part-00/.building"):
        (bare / name).mkdir()
        shutil.copy(flat / "shard-000000.tar", bare / name)
    shutil.rmtree(bare / "part-00" / ".building")
    (bare / "part-01" / "circle").symlink_to(bare)
    outside = bare.parent / "part-02"
    shutil.copytree(bare / "part-00", outside)
    (bare / "part-02").symlink_to(outside)
    names = [path.relative_to(bare).as_posix() for path in shard_paths(bare)]
    assert names == [*NESTED.values(), "part-02/a.tar", "part-02/b.tar"]


def test_tars_of_the_folder_itself_are_the_set_as_before(flat: Path, bare: Path) -> None:
    before = {path.name: path.read_bytes() for path in flat.iterdir()}
    shutil.copytree(bare / "part-00", flat / "part-00")
    warnings: list[str] = []
    index_folder(flat, warn=warnings.append)
    assert warnings == ["2 tars in subfolders were left out, because the folder itself has tars"]
    shutil.rmtree(flat / "part-00")
    assert {path.name: path.read_bytes() for path in flat.iterdir()} == before


def test_folders_of_other_names_are_doubted(bare: Path) -> None:
    warnings: list[str] = []
    index_folder(bare, warn=warnings.append)
    assert len(warnings) == 1, "part-01/deep is not named like part-00"
    (bare / "part-01" / "deep" / "a.tar").rename(bare / "part-01" / "a.tar")
    warnings.clear()
    index_folder(bare, warn=warnings.append)
    assert warnings == []
    (bare / "part-01").rename(bare / "cats")
    index_folder(bare, warn=warnings.append)
    assert "The names of folders are no labels" in warnings[0]


def test_a_folder_of_sets_is_refused(tmp_path: Path, bare: Path) -> None:
    make_set(tmp_path / "sets" / "a")
    make_set(tmp_path / "sets" / "b")
    with pytest.raises(UserError, match=r"'a' is a set of its own[\s\S]*data merge"):
        index_folder(tmp_path / "sets")
    with pytest.raises(UserError, match=r"but its subfolders are[\s\S]*fix: give .*sets/a"):
        ShardSet.open(tmp_path / "sets")
    (bare / "part-00").rename(bare / "train")
    with pytest.raises(UserError, match=r"'train' looks like a part of a data set[\s\S]*such as .*train"):
        index_folder(bare)
    assert not (bare / DATASET).exists()


def test_shards_in_subfolders_without_an_index_are_told(bare: Path) -> None:
    with pytest.raises(UserError, match=r"the shards have no index[\s\S]*all4one data index"):
        ShardSet.open(bare)


def test_compressed_tars_in_subfolders_are_refused(bare: Path) -> None:
    (bare / "part-00" / "c.tar.gz").touch()
    with pytest.raises(UserError, match="1 tar is compressed"):
        index_folder(bare)


def test_a_missing_shard_is_named(nested: Path) -> None:
    (nested / "part-00" / "b.tar").unlink()
    with pytest.raises(UserError, match=r"part-00/b\.tar: the shard is missing"):
        ShardSet.open(nested)


@pytest.fixture
def server(nested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = FileServer(nested)
    yield server
    server.close()


@pytest.mark.parametrize("query", ["", "?sig=1"])
def test_a_remote_set_is_cached_and_evicted_as_any_other(
    server: FileServer, nested: Path, tmp_path: Path, query: str
) -> None:
    local = ShardSet.open(nested)
    largest = max(shard.size for shard in local.record.shards)
    room = largest + (nested / "index.npy").stat().st_size
    config = DATA.model_copy(update={"cache": tmp_path / "small", "cache_bytes": room})
    remote = ShardSet.open(server.url + query, config)
    for sample in [0, 9, 19, 0]:
        assert remote.read(sample) == local.read(sample)
    held = [path for path in (tmp_path / "small").rglob("*") if path.is_file() and path.name != ".lock"]
    assert sum(path.stat().st_size for path in held) <= room
    assert [path.name for path in held if "tar" in path.name] == ["part-00%2Fa.tar"]
    assert server.starts("part-00/a.tar") == [0, 0], "it was evicted and downloaded again"
    np.testing.assert_array_equal(remote.index, local.index)
