import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.inspect.verify import verify
from data_pipelines.shards.shard_set import ShardSet


@pytest.fixture
def folder(whole_set: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_set, tmp_path / "set")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_set_has_nothing_bad(whole_set: Path, workers: int) -> None:
    reports = verify(whole_set, decode=True, workers=workers)
    assert [(report.samples, report.bad) for report in reports] == [(n, []) for n in (25, 25, 25, 15)]


def test_each_flipped_byte_is_named(folder: Path) -> None:
    shards = ShardSet.open(folder)
    for sample in (3, 60):
        path = folder / f"shard-{shards.index['shard'][sample]:06d}.tar"
        data = bytearray(path.read_bytes())
        data[int(shards.index["offset"][sample]) + 50] ^= 4
        path.write_bytes(data)
    bad = [entry for report in verify(folder) for entry in report.bad]
    assert bad == [
        (shards.key(3), "CRC differs from the index"),
        (shards.key(60), "CRC differs from the index"),
    ]


def test_a_changed_index_is_refused(folder: Path) -> None:
    rows = np.load(folder / "index.npy")
    rows["label"][5] += 1
    np.save(folder / "index.npy", rows)
    with pytest.raises(UserError, match="the index was changed"):
        verify(folder)
