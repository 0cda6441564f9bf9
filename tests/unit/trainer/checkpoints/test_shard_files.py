from pathlib import Path

import pytest
import torch

from data_pipelines.errors import UserError
from data_pipelines.prefetch import nothing
from trainer.checkpoints.shard_files import ShardFiles
from trainer.checkpoints.store import CheckpointStore


def taken_over() -> None:
    raise UserError("another process has taken over this run")


def files(folder: Path, attempt: int = 3) -> ShardFiles:
    return ShardFiles(folder, attempt, 40, require_lock=nothing)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_shard_is_read_as_it_was_written(tmp_path: Path, size: int) -> None:
    content = torch.arange(size).to(torch.uint8)
    files(tmp_path).write(2, content)
    assert torch.equal(files(tmp_path).read(2, size), content)
    files(tmp_path).remove()
    assert not [*tmp_path.iterdir()]


def test_a_shard_that_is_missing_or_cut_short_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)shard of rank 1 was not handed over.*goes on from its last"):
        files(tmp_path).read(1, 8)
    files(tmp_path).write(1, torch.zeros(7, dtype=torch.uint8))
    with pytest.raises(UserError, match="7 bytes instead of 8"):
        files(tmp_path).read(1, 8)


def test_nothing_is_written_once_another_process_has_the_run(tmp_path: Path) -> None:
    late = ShardFiles(tmp_path / "checkpoints", 3, 40, require_lock=taken_over)
    with pytest.raises(UserError, match="taken over"):
        late.write(0, torch.zeros(4, dtype=torch.uint8))
    assert not [*tmp_path.iterdir()]


def test_the_next_attempt_removes_what_is_left(tmp_path: Path) -> None:
    files(tmp_path, attempt=3).write(0, torch.zeros(4, dtype=torch.uint8))
    files(tmp_path, attempt=4).write(0, torch.zeros(4, dtype=torch.uint8))
    CheckpointStore(tmp_path, attempt=4)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-4-0-shards-40"]
