import json
import shutil

import pytest
import torch
from checkpoints import any_tensors, is_whole, names, same_tensors, snapshot, store_at
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from trainer.checkpoints.format import MANIFEST, MODEL, OPTIMIZER, STATE, Snapshot
from trainer.checkpoints.store import CheckpointStore

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    step=st.integers(0, 10**9),
    model=st.dictionaries(
        st.text(min_size=1, max_size=20).filter("__metadata__".__ne__), any_tensors(), max_size=5
    ),
    optimizer=st.dictionaries(st.text("abc./", min_size=1), any_tensors(), max_size=3),
    state=st.dictionaries(st.text(), JSON, max_size=4),
)
def test_everything_comes_back_bit_by_bit(tmp_path_factory, step, model, optimizer, state):
    store = store_at(tmp_path_factory.mktemp("checkpoints"))
    path = store.write(Snapshot(step, model, optimizer, state))
    loaded = store.load_newest()
    assert (loaded.path, loaded.skipped, loaded.snapshot.step) == (path, [], step)
    assert loaded.snapshot.state == state
    same_tensors(loaded.snapshot.model, model)
    same_tensors(loaded.snapshot.optimizer, optimizer)


def test_tensors_that_share_memory_come_back(tmp_path):
    base = torch.arange(12.0)
    model = {"a": base, "b": base, "row": base[3:6], "matrix": base.view(3, 4).t(), "empty": base[:0]}
    store = store_at(tmp_path)
    store.write(Snapshot(1, model, {}, {}))
    same_tensors(store.load_newest().snapshot.model, model)


def test_layout_on_disk(tmp_path):
    store_at(tmp_path).write(snapshot(1200))
    assert names(tmp_path) == ["latest", "step_00001200"]
    assert (tmp_path / "latest").read_text() == "step_00001200\n"
    assert names(tmp_path / "step_00001200") == sorted([MODEL, OPTIMIZER, STATE, MANIFEST])
    assert json.loads((tmp_path / "step_00001200" / STATE).read_text())["step"] == 1200


def test_checkpoints_that_are_set_aside_are_kept_and_no_longer_loaded(tmp_path):
    store = store_at(tmp_path, attempt=2)
    for step in (10, 20, 30, 20):
        store.write(snapshot(step))
    assert [path.name for path in store.set_aside(10)] == [
        "suspect-2-step_00000020.1",
        "suspect-2-step_00000030",
    ]
    assert names(tmp_path) == [
        "latest",
        "step_00000010",
        "suspect-2-step_00000020.1",
        "suspect-2-step_00000030",
    ]
    assert (tmp_path / "latest").read_text() == "step_00000010\n"
    assert store.load_newest().snapshot.step == 10
    assert store.set_aside(10) == []

    later = store_at(tmp_path, attempt=3, keep_last=1)
    later.write(snapshot(20))
    assert [path.name for path in later.set_aside(5)] == ["suspect-3-step_00000020"]
    assert later.load_newest() is None
    assert len(names(tmp_path)) == 3, "no checkpoint and no name of the latest one"
    is_whole(later.load(tmp_path / "suspect-2-step_00000030"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    increments=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    keep_last=st.integers(1, 3),
    keep_every=st.sampled_from([0, 2, 3]),
)
def test_keep_rules(tmp_path_factory, increments, keep_last, keep_every):
    folder = tmp_path_factory.mktemp("checkpoints")
    store = store_at(folder, keep_last=keep_last, keep_every=keep_every)
    steps = [sum(increments[: i + 1]) for i in range(len(increments))]
    for step in steps:
        store.write(snapshot(step, size=1))
    milestones = [step for step in steps if keep_every and step % keep_every == 0]
    kept = sorted({*steps[-keep_last:], *milestones})
    assert names(folder) == ["latest", *(f"step_{step:08d}" for step in kept)]
    assert store.load_newest().snapshot.step == steps[-1]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.integers(0, 4), min_size=1, max_size=10), keep_last=st.integers(1, 3))
def test_going_back_and_writing_again_makes_the_last_write_the_newest(tmp_path_factory, steps, keep_last):
    folder = tmp_path_factory.mktemp("checkpoints")
    for attempt, step in enumerate(steps):
        written = Snapshot(step, {"x": torch.tensor(attempt)}, {}, {})
        path = store_at(folder, attempt=attempt, keep_last=keep_last).write(written)
        assert (folder / "latest").read_text().strip() == path.name
        loaded = store_at(folder, attempt=attempt).load_newest()
        assert (loaded.path, loaded.snapshot.model["x"].item()) == (path, attempt)
        on_disk = [name.split(".")[0] for name in names(folder) if name != "latest"]
        assert len(on_disk) == len(set(on_disk)) <= keep_last


@pytest.mark.parametrize("file", [MODEL, OPTIMIZER, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_broken_checkpoint_is_passed_over_and_the_reason_is_said(tmp_path, file, damage):
    store = store_at(tmp_path, keep_last=2)
    store.write(snapshot(1))
    newest = store.write(snapshot(2))
    content = bytearray((newest / file).read_bytes())
    if damage == "remove":
        (newest / file).unlink()
    elif damage == "cut":
        (newest / file).write_bytes(content[:-10])
    else:
        content[content.index(b"2") if file == MANIFEST else len(content) // 2] ^= 1
        (newest / file).write_bytes(content)
    loaded = store.load_newest()
    assert loaded.snapshot.step == 1
    [(path, reason)] = loaded.skipped
    assert path == newest
    assert file in reason
    with pytest.raises(UserError) as caught:
        store.load(newest)
    assert str(newest) in str(caught.value)
    store.write(snapshot(3))
    store.write(snapshot(4))
    assert names(tmp_path) == ["latest", "step_00000003", "step_00000004"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    file=st.sampled_from([MODEL, OPTIMIZER, STATE, MANIFEST]), where=st.floats(0, 1), bit=st.integers(0, 7)
)
def test_no_flipped_bit_changes_what_is_loaded(tmp_path_factory, file, where, bit):
    store = store_at(tmp_path_factory.mktemp("checkpoints"))
    store.write(snapshot(1))
    newest = store.write(snapshot(2))
    content = bytearray((newest / file).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1 << bit
    (newest / file).write_bytes(content)
    loaded = store.load_newest()
    is_whole(loaded.snapshot)
    white_space_only = file == MANIFEST and loaded.skipped == []
    assert loaded.snapshot.step == (2 if white_space_only else 1)


def test_a_broken_one_does_not_take_the_place_of_a_good_one(tmp_path):
    store = store_at(tmp_path, keep_last=2)
    store.write(snapshot(1))
    newest = store.write(snapshot(2))
    (newest / MODEL).write_bytes(b"x" * (newest / MODEL).stat().st_size)
    assert store.load_newest().snapshot.step == 1
    store.write(snapshot(2))
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002.1"]


def test_when_none_is_whole_the_run_does_not_start_anew_in_silence(tmp_path):
    store = store_at(tmp_path)
    assert store.load_newest() is None
    path = store.write(snapshot(1))
    (path / STATE).unlink()
    with pytest.raises(UserError, match=r"no checkpoint is valid: .*state.json: cannot be read"):
        store.load_newest()


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    path = store_at(tmp_path).write(snapshot(1))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="has format 99"):
        store_at(tmp_path).load(path)


def test_left_overs_go_with_the_next_attempt_and_those_of_a_later_one_stay(tmp_path):
    (tmp_path / ".tmp-1-4711-step_00000007").mkdir()
    (tmp_path / ".tmp-1-4711-step_00000007" / MODEL).write_bytes(b"half")
    (tmp_path / ".tmp-1-4711-latest").write_text("half")
    (tmp_path / ".tmp-9-4711-step_00000007").mkdir()
    CheckpointStore(tmp_path)
    store_at(tmp_path, attempt=1)  # another rank of the attempt that is writing
    assert len(names(tmp_path)) == 3
    store_at(tmp_path, attempt=2)
    assert names(tmp_path) == [".tmp-9-4711-step_00000007"]


def test_a_reader_passes_over_what_a_running_run_removes_meanwhile(tmp_path):
    store = store_at(tmp_path)
    for step in (1, 2, 3):
        store.write(snapshot(step))
    reading = CheckpointStore(tmp_path).states()
    assert next(reading)[1]["step"] == 3
    shutil.rmtree(tmp_path / "step_00000002")
    assert [state["step"] for _, state in reading] == [1]


@pytest.mark.parametrize("damage", [lambda content: bytes(len(content)), lambda c: c.replace(b"3", b"4")])
def test_a_state_that_is_damaged_is_passed_over_without_reading_tensors(tmp_path, damage):
    store = store_at(tmp_path)
    for step in (2, 3):
        store.write(snapshot(step))
    state = tmp_path / "step_00000003" / STATE
    state.write_bytes(damage(state.read_bytes()))
    assert store_at(tmp_path).newest_state()["step"] == store_at(tmp_path).newest_step() == 2
