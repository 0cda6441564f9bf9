import errno
import resource
import threading

import pytest
from checkpoints import is_whole, names, snapshot, store_at
from rank_processes import forks

from data_pipelines.errors import UserError
from trainer.checkpoints.background_writer import BackgroundWriter
from trainer.checkpoints.store import CheckpointStore


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_a_full_disk_is_a_warning_and_the_next_write_is_tried_again(small_disk):
    store = store_at(small_disk)
    writer = BackgroundWriter(store)
    writer.submit(snapshot(1))
    writer.submit(snapshot(2, size=1_000_000))
    writer.wait()
    [warning] = writer.warnings()
    assert "checkpoint of step 2 could not be written" in warning
    assert "No space left" in warning
    assert str(small_disk) in warning
    assert "fix: free space" in warning
    assert writer.warnings() == []
    assert names(small_disk) == ["latest", "step_00000001"]
    is_whole(store.load_newest().snapshot)
    writer.submit(snapshot(3))
    writer.close()
    assert writer.warnings() == []
    assert store.load_newest().snapshot.step == 3


def write_beyond_the_size_limit(folder, answer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    writer = BackgroundWriter(store_at(folder))
    for step, size in ((1, 10), (2, 10_000), (3, 10)):
        writer.submit(snapshot(step, size=size))
    writer.close()
    answer.put(writer.warnings())


def test_a_quota_is_a_warning_and_the_next_write_is_tried_again(tmp_path):
    answer = forks().Queue()
    process = forks().Process(target=write_beyond_the_size_limit, args=(tmp_path, answer))
    process.start()
    [warning] = answer.get(timeout=60)
    process.join()
    assert "checkpoint of step 2 could not be written" in warning
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000003"]
    is_whole(store_at(tmp_path).load_newest().snapshot)


def test_a_folder_that_vanishes_is_a_warning(tmp_path):
    writer = BackgroundWriter(store_at(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").write_text("in the way")
    writer.submit(snapshot(1))
    writer.close()
    assert len(writer.warnings()) == 1
    with pytest.raises(UserError, match="cannot be opened"):
        store_at(tmp_path / "checkpoints")


def test_a_folder_that_cannot_be_listed_for_a_moment_is_a_warning(tmp_path, monkeypatch):
    store = store_at(tmp_path)
    writer = BackgroundWriter(store)
    with monkeypatch.context() as patched:
        patched.setattr("trainer.checkpoints.store.list_checkpoints", _stale)
        writer.submit(snapshot(1))
        writer.wait()
    assert "Stale file handle" in writer.warnings()[0]
    writer.submit(snapshot(2))
    writer.close()
    assert names(tmp_path) == ["latest", "step_00000002"]


def _stale(_):
    raise OSError(errno.ESTALE, "Stale file handle")


def test_submit_returns_while_the_write_goes_on_and_waits_for_the_one_before(tmp_path):
    let_go, written = threading.Event(), []

    class SlowStore(CheckpointStore):
        def write(self, snapshot):
            assert let_go.wait(60)
            written.append(snapshot.step)
            return super().write(snapshot)

    writer = BackgroundWriter(SlowStore(tmp_path, attempt=1, keep_last=5, keep_every=0))
    writer.submit(snapshot(1))
    assert written == []
    let_go.set()
    writer.submit(snapshot(2))
    assert written[0] == 1
    writer.close()
    assert written == [1, 2]
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]
