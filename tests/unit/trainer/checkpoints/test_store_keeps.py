import json
import os
import random
import signal
import time
from dataclasses import replace

import pytest
from checkpoints import is_whole, names, snapshot, store_at
from rank_processes import forks

from data_pipelines.errors import UserError
from trainer.checkpoints.format import MANIFEST
from trainer.checkpoints.keep_rules import CheckpointSettings
from trainer.checkpoints.store import CheckpointStore


def after_broken_steps(step):
    taken = snapshot(step)
    return replace(taken, state=taken.state | {"guard": {"in_a_row": 2}})


def test_after_broken_steps_the_checkpoint_before_them_stays(tmp_path):
    store = store_at(tmp_path, keep_last=1)
    store.write(snapshot(1))
    store.write(after_broken_steps(2))
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]
    store.write(snapshot(3))
    assert names(tmp_path) == ["latest", "step_00000003"]


def test_the_newest_trusted_checkpoint_stays_until_a_newer_one_is_trusted(tmp_path):
    store = store_at(tmp_path, keep_last=2)
    store.trusted = 20
    for step in (10, 20, 30, 40, 50):
        store.write(snapshot(step))
    assert names(tmp_path) == ["latest", "step_00000020", "step_00000040", "step_00000050"]
    store.trusted = 55
    store.write(snapshot(60))
    assert names(tmp_path) == ["latest", "step_00000050", "step_00000060"]
    store.trusted = 65
    store.write(snapshot(65))
    assert names(tmp_path) == ["latest", "step_00000060", "step_00000065"]
    store.set_aside(62)
    assert store.load_newest().snapshot.step == 60


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_run_that_is_interrupted_in_broken_steps_again_and_again_keeps_its_newest_good_checkpoint(
    tmp_path, keep_last
):
    store_at(tmp_path, attempt=1, keep_last=keep_last).write(snapshot(1))
    store_at(tmp_path, attempt=1, keep_last=keep_last).write(snapshot(2))
    for step in range(3, 9):
        store_at(tmp_path, attempt=step, keep_last=keep_last).write(after_broken_steps(step))
    left = [name for name in names(tmp_path) if name != "latest"]
    assert "step_00000002" in left
    assert "step_00000001" not in left
    assert len(left) == keep_last + 2


def newer_format(path):
    """Make a checkpoint look as a newer version would write it."""
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "format": 99, "more": 1}))


def test_a_checkpoint_of_a_newer_version_is_named_and_never_removed(tmp_path):
    store = store_at(tmp_path, keep_last=1)
    store.write(snapshot(1))
    store_at(tmp_path, attempt=2).write(snapshot(2))
    newer_format(tmp_path / "step_00000002")
    with pytest.raises(UserError, match="written by a newer version") as caught:
        store_at(tmp_path, attempt=3, keep_last=1).load_newest()
    assert caught.value.where == tmp_path / "step_00000002" / MANIFEST
    store_at(tmp_path, attempt=3, keep_last=1).write(snapshot(3))
    assert names(tmp_path) == ["latest", "step_00000002", "step_00000003"]
    assert store_at(tmp_path, attempt=4).load_newest().snapshot.step == 3


def test_a_store_to_read_makes_nothing(tmp_path):
    store = CheckpointStore(tmp_path / "absent")
    assert store.load_newest() is None
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="read only"):
        store.write(snapshot(1))


def test_loaded_tensors_outlive_their_file(tmp_path):
    store = store_at(tmp_path)
    loaded = store.load(store.write(snapshot(1, size=100_000)))
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"")
    is_whole(loaded)


def write_until_killed(folder, first, started):
    store = store_at(folder, attempt=first, keep_last=2, keep_every=5)
    for step in range(first, first + 10_000):
        store.write(snapshot(step, size=2000))
        store.write(snapshot(step, size=3000))
        started.set()


def test_a_writer_killed_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path):
    seed = random.randrange(2**32)
    print("seed", seed)
    random_times = random.Random(seed)
    step = 0
    for _ in range(12):
        started = forks().Event()
        writer = forks().Process(target=write_until_killed, args=(tmp_path, step, started))
        writer.start()
        assert started.wait(60)
        time.sleep(random_times.uniform(0, 0.08))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        latest = CheckpointStore(tmp_path).load(tmp_path / (tmp_path / "latest").read_text().strip())
        is_whole(latest)
        loaded = CheckpointStore(tmp_path).load_newest()
        is_whole(loaded.snapshot)
        assert loaded.skipped == []
        assert loaded.snapshot.step >= latest.step >= step
        step = loaded.snapshot.step
    store_at(tmp_path, attempt=10**6)
    assert not [name for name in names(tmp_path) if name.startswith(".tmp")]


def test_a_run_that_keeps_one_checkpoint_may_replace_it_while_it_is_read(tmp_path):
    run = store_at(tmp_path, keep_last=1)
    run.write(snapshot(1))
    reader = CheckpointStore(tmp_path)
    load, written = reader.load, []

    def load_late(path):
        if not written:
            written.append(run.write(snapshot(2)))
        return load(path)

    reader.load = load_late
    loaded = reader.load_newest()
    assert (loaded.path, loaded.skipped) == (written[0], [])
    is_whole(loaded.snapshot)


def test_interval():
    assert CheckpointSettings(every_steps=7).interval(100) == 7
    assert CheckpointSettings(every_epochs=0.5).interval(101) == 50
    assert CheckpointSettings(every_epochs=0.001).interval(100) == 1
    assert CheckpointSettings(every_epochs=0).interval(100) == 0
