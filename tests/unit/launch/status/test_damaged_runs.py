"""A run's text files are damaged at random: `status` shows the rest, and `resume` says what is damaged."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
from damage import with_flipped_bits, with_wrong_value
from trained_runs import make_run

import launch.local.runs
from data_pipelines.errors import UserError
from launch.local.runs import resume_run
from launch.status.run_status import overview
from launch.status.tables import print_status
from trainer.checkpoints.store import CheckpointStore
from trainer.monitoring.metrics import MetricsWriter
from trainer.runs import records
from trainer.runs.owned_file import OwnedFile
from trainer.runs.records import (
    append_record,
    count_damaged,
    read_records,
    read_speeds,
    read_speeds_and_damage,
)
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

FLIPS = 100
"""Damages of each kind for each of the five files."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one to damage, and a healthy one beside it."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("damaged", "healthy"):
        run, _ = make_run(folder / name)
        run.note("start", attempt=1, world_size=2, host="a", nodes="node[1-2]", job="7")
        run.note("ready", attempt=1, step=0, total_steps=20, replayed=0)
        run.note("end", attempt=1, reason="interrupted", step=3)
        for step in (1, 2, 3):
            values = {"loss": 1.5 / step, "time": {"images_per_second": 128.5}}
            append_record(run.metrics, {"kind": "train", "step": step, "epoch": step / 10, **values})
        with RunLock(run.path, attempt=1):
            pass
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flipped bit", "wrong value"])
@pytest.mark.parametrize("file", ["metrics.jsonl", "ledger.jsonl", "config.yaml", "lock", "manifest.json"])
def test_no_damage_ends_in_a_traceback(
    runs: Path, file: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.local.runs, "check", lambda *args, **options: None)
    monkeypatch.setattr(launch.local.runs, "refuse_other_train_set", lambda *args: None)
    monkeypatch.setattr(launch.local.runs, "train_run", lambda *args: 0)
    run = RunFolder(runs / "damaged")
    (path,) = [found for found in run.path.rglob("*") if file in (found.name, found.parent.name)][-1:]
    whole, before = path.read_bytes(), {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    chooser = random.Random(file)
    for _ in range(FLIPS):
        if kind == "flipped bit":
            path.write_bytes(with_flipped_bits(whole, 1, chooser))
        else:
            path.write_bytes(with_wrong_value(path, whole, chooser))
        found = overview(runs)
        print_status(runs, as_json=chooser.random() < 0.5)
        assert "healthy" in {Path(one.run).name for one in found.runs}
        for act in (
            lambda: overview(run.path),
            lambda: resume_run(run.path, [], 1),
            lambda: CheckpointStore(run.checkpoints).load_newest(),
            lambda: MetricsWriter(OwnedFile(run.metrics), 3).close(),
        ):
            with suppress(UserError):
                act()
        for other, content in before.items():  # `resume` and the writer of metrics may replace files
            if not other.exists() or other.read_bytes() != content:
                other.write_bytes(content)
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[1]",
        b"3",
        b"null",
        b'{"kind": 1, "step": 2}',
        b'{"kind": "train", "step": "2"}',
        b"{" * 9,
    ],
)
def test_what_is_whole_is_read_and_the_rest_is_counted(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"kind": "train", "step": 1})
    path.write_bytes(path.read_bytes() + line + b"\n")
    append_record(path, {"kind": "train", "step": 3})
    assert [record["step"] for record in read_records(path)] == [1, 3]
    assert count_damaged(path) == 1
    path.write_bytes(path.read_bytes() + b'{"kind": "tr')  # a kill cut it short
    assert count_damaged(path) == 1
    assert len(read_records(path)) == 2
    assert (
        read_speeds_and_damage(path)
        == (read_speeds(path), count_damaged(path))
        == ([(1, None), (3, None)], 1)
    )


def test_status_of_a_run_reads_its_metrics_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = make_run(tmp_path / "a")
    run.metrics.unlink(missing_ok=True)
    append_record(run.metrics, {"kind": "train", "step": 1})
    run.metrics.write_bytes(run.metrics.read_bytes() + b"\xff\n[]\n")
    append_record(run.metrics, {"kind": "train", "step": 3})
    opened: list[Path] = []
    lines = records._lines
    monkeypatch.setattr(records, "_lines", lambda path: opened.append(path) or lines(path))
    found = overview(run.path)
    assert opened.count(run.metrics) == 1
    assert found.damaged == {str(run.metrics): 2}
    assert found.runs[0].step == 3


def test_escape_sequences_of_a_ledger_do_not_reach_the_terminal(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.note("end", attempt=1, reason="error", message="\x1b[2J\x1b]0;title\x07gone\x9b")
    (record,) = read_records(run.ledger)
    assert record["message"].isprintable()
    assert record["message"].endswith("gone\N{REPLACEMENT CHARACTER}")


def test_status_counts_the_lines_that_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run")
    run.note("start", attempt=1, world_size=1)
    run.ledger.write_bytes(run.ledger.read_bytes() + b"\xff\n{]\n")
    run.note("end", attempt=1, reason="interrupted", step=3)
    print_status(run.path, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"skipped: 2 damaged lines of {run.ledger}" in said
    assert "interrupted" in said
