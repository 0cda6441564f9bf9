import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer
from noise_sets import make_set

from data_pipelines.errors import UserError
from data_pipelines.imaging.images import UnusableImage
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.existing_shards import index_folder
from data_pipelines.sources.indexed_sets import list_sets, part_of
from data_pipelines.sources.items import make_keys


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of a set of 20 samples in three shards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = FileServer(make_set(tmp_path / "served"))
    yield server
    server.close()


def tar_of(path: Path, names: list[str], image: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(image)
            tar.addfile(info, BytesIO(image))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Shards of other origin whose keys occur again, lie in folders, are long, and hold odd characters."""
    image = ShardSet.open(make_set(tmp_path / "one")).read(0)
    folder = tmp_path / "foreign"
    folder.mkdir()
    tar_of(folder / "a.tar", ["000.png", "cat/001.png", "dög 1.png", "x" * 95 + ".png"], image)
    tar_of(folder / "b.tar", ["000.png", "cat/001.png", "cat/002.png"], image)
    index_folder(folder)
    return folder


def test_items_have_the_bytes_labels_and_keys_of_their_samples(tmp_path: Path) -> None:
    shards = ShardSet.open(make_set(tmp_path / "set"))
    source = list_sets([shards], workers=2)
    assert source.classes == shards.classes
    assert (source.runs, source.notes) == ((), ())
    for sample, item in enumerate(source.items):
        assert item.read() == shards.read(sample)
        assert (item.size, item.size_is_exact) == (len(shards.read(sample)), True)
        assert item.label == shards.index["label"][sample]
        assert shards.key(sample).partition(".tar/")[2] == item.key


def test_keys_become_unique_and_keep_their_folders(foreign: Path) -> None:
    source = list_sets([ShardSet.open(foreign)])
    assert [item.key for item in source.items] == [
        "000",
        "cat/001",
        "d_g_1",
        "x" * 90,
        "000-2",
        "cat/001-2",
        "cat/002",
    ]
    assert source.notes[0].startswith("4 keys were changed")


def test_keys_that_occur_very_often_take_no_quadratic_time() -> None:
    keys = list(make_keys(["a"] * 100_000))
    assert len(set(keys)) == 100_000
    assert (keys[0], keys[1], keys[-1]) == ("a", "a-2", "a-100000")


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a", "a-2", "a", "a"], ["a", "a-2", "a-3", "a-4"]),
        (["/etc/passwd", "../up"], ["_etc_passwd", "___up"]),
    ],
)
def test_a_key_that_looks_like_a_copy_is_not_given_again(names: list[str], keys: list[str]) -> None:
    assert list(make_keys(names)) == keys


def test_keys_with_folders_are_relative() -> None:
    assert list(make_keys(["/a/b", "../c", "d" * 3 + "/" + "e" * 89], folders=True)) == [
        "a/b",
        "__/c",
        "e" * 89,
    ]


def test_classes_are_joined_by_name(tmp_path: Path) -> None:
    a = ShardSet.open(make_set(tmp_path / "a", 20, ["dark", "light"]))
    b = ShardSet.open(make_set(tmp_path / "b", 30, ["light", "dim"]))
    source = list_sets([a, b])
    assert source.classes == ("dark", "light", "dim")
    names = [one.classes[label] for one in (a, b) for label in one.index["label"]]
    assert [source.classes[item.label] for item in source.items] == names
    assert len({item.key for item in source.items}) == 50


def test_numbers_as_class_names_are_not_joined(tmp_path: Path) -> None:
    sets = [
        ShardSet.open(make_set(tmp_path / str(count), count, [str(n) for n in range(count // 10)]))
        for count in (20, 30)
    ]
    with pytest.raises(UserError, match="numbers as names"):
        list_sets(sets)


def test_a_set_without_labels_is_told(tmp_path: Path) -> None:
    plain, labeled = make_set(tmp_path / "plain", 10, []), make_set(tmp_path / "labeled")
    source = list_sets([ShardSet.open(plain), ShardSet.open(labeled)])
    assert source.notes[0].startswith("10 samples have no label")
    assert [item.label for item in source.items[:10]] == [-1] * 10
    assert {item.label for item in source.items[10:]} == {0, 1}


def test_changed_bytes_are_unusable_and_lost_shards_stop(tmp_path: Path) -> None:
    shards = ShardSet.open(make_set(tmp_path / "set"))
    source = list_sets([shards], workers=2)  # other processes open the shards
    path = tmp_path / "set" / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(shards.index["offset"][9]) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnusableImage, match="CRC differs from the index"):
        source.items[9].read()
    assert source.items[8].read()
    (tmp_path / "set" / "shard-000002.tar").unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        source.items[19].read()


def test_an_overwritten_header_does_not_cost_the_sample(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    offset = int(ShardSet.open(folder).index["offset"][9])
    path = folder / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[offset - 512 : offset] = b"x" * 512
    path.write_bytes(data)
    item = list_sets([ShardSet.open(folder)]).items[9]
    assert item.key == f"shard-000001-{offset}"
    assert item.read() == ShardSet.open(folder).read(9)


def test_a_moved_set_is_the_same_source(tmp_path: Path) -> None:
    first = make_set(tmp_path / "first")
    before = repr(list_sets([ShardSet.open(first)]))
    shutil.move(first, tmp_path / "second")
    assert repr(list_sets([ShardSet.open(tmp_path / "second")])) == before


def test_shards_of_a_remote_set_are_runs(server: FileServer, tmp_path: Path) -> None:
    local, remote = ShardSet.open(make_set(tmp_path / "local", 10)), ShardSet.open(server.url)
    source = list_sets([remote, local], workers=2)
    assert source.runs == (8, 8, 4, *[1] * 10)
    assert "remote shard stay together" in source.notes[-1]
    assert [item.read() for item in source.items[:20]] == [
        ShardSet.open(tmp_path / "served").read(sample) for sample in range(20)
    ]
    chosen = np.zeros(30, bool)
    chosen[[0, 1, 17, 18, 19, 22]] = True
    part = part_of(source, chosen)
    assert part.runs == (2, 3, 1)
    assert part.items == [source.items[number] for number in np.flatnonzero(chosen)]
