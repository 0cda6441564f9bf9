import json
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.loading.quarantine import Quarantine, TooManyBadSamples


def test_each_bad_sample_is_named_once_and_counted_each_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "quarantine.jsonl"
    quarantine = Quarantine(0.5, path)
    quarantine.note(32, {}, epoch=0, step=0)
    quarantine.note(32, {"a.tar/x": "cut short"}, epoch=0, step=1)
    quarantine.note(32, {"a.tar/x": "cut short", "b.tar/d/y": "truncated"}, epoch=1, step=9)
    assert (quarantine.seen, quarantine.bad) == (96, 3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"key": "x", "shard": "a.tar", "reason": "cut short", "epoch": 0, "step": 1},
        {"key": "d/y", "shard": "b.tar", "reason": "truncated", "epoch": 1, "step": 9},
    ]


@pytest.mark.parametrize(
    ("name", "shard", "key"),
    [
        ("data/a/train/x.tar/d/y", "data/a/train/x.tar", "d/y"),
        ("s3://bucket/a/x.tar/y", "s3://bucket/a/x.tar", "y"),
        ("x.tar.gz/y", "x.tar.gz", "y"),
        ("x.tar", "x.tar", ""),
    ],
)
def test_shard_and_key_are_told_apart(name: str, shard: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    Quarantine(0.5, path).note(32, {name: "cut short"}, epoch=0, step=0)
    entry = json.loads(path.read_text())
    assert (entry["shard"], entry["key"]) == (shard, key)


def test_a_full_disk_costs_no_step_and_the_sample_is_named_when_it_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.symlink_to("/dev/full")
    quarantine = Quarantine(0.5, path)
    quarantine.note(32, {"a.tar/x": "cut short"}, epoch=0, step=1)
    path.unlink()
    quarantine.note(32, {"a.tar/x": "cut short"}, epoch=1, step=9)
    assert quarantine.bad == 2
    assert json.loads(path.read_text())["step"] == 9


def test_one_bad_sample_early_stops_no_run() -> None:
    Quarantine(0.001, None).note(4, {"a.tar/x": "cut"}, epoch=0, step=0)


def test_none_are_allowed_where_the_fraction_is_zero() -> None:
    with pytest.raises(TooManyBadSamples):
        Quarantine(0, None).note(4, {"a.tar/x": "cut"}, epoch=0, step=0)


def test_too_many_stop_the_run_with_what_to_do() -> None:
    quarantine = Quarantine(0.01, None)
    quarantine.note(1000, {f"a.tar/{i}": "cut" for i in range(10)}, epoch=0, step=0)
    with pytest.raises(UserError, match=r"a\.tar/z: 11 of 1001 samples[\s\S]*data verify") as error:
        quarantine.note(1, {"a.tar/z": "cut"}, epoch=0, step=1)
    assert isinstance(error.value, TooManyBadSamples)


def test_shards_are_recorded_once_and_do_not_count(tmp_path: Path) -> None:
    quarantine = Quarantine(0.0, tmp_path / "bad.jsonl")
    for step in (3, 4):
        quarantine.note_shards({"a.tar": "HTTP status 403"}, epoch=0, step=step)
    assert quarantine.bad == 0
    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "key": "",
        "shard": "a.tar",
        "reason": "HTTP status 403",
        "epoch": 0,
        "step": 3,
    }
