"""What the first rank of a run on this machine prints is kept in a file."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER, PRINTED
from launch.local import kept_output
from launch.local.kept_output import keep_output
from launch.messages import print_error
from launch.slurm.logs import show
from trainer.runs.progress import TrainingProgress
from trainer.runs.run_folder import RunFolder


def train(progress: TrainingProgress) -> None:
    progress.say("resuming from step_00000001")
    for step in (2, 3, 4):
        progress.update(step, step / 10, loss=2.0, images_per_second=64)
    LOGGER.warning("the disk is slow")
    progress.close()
    print_error(UserError("the disk is full", where="/data", fix="free space"))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_messages_steps_log_and_errors_are_kept_without_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    class Screen(Console):
        is_terminal = property(lambda self: is_terminal)  # type: ignore[assignment]

    monkeypatch.setattr("data_pipelines.console.Console", Screen)
    with keep_output(tmp_path / "rank_0.log"):
        train(TrainingProgress(10, 0, 64, visible=True))
    later = TrainingProgress(10, 0, 64, visible=True)
    later.say("not of this run")
    later.close()
    kept = (tmp_path / "rank_0.log").read_text().splitlines()
    kept = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in kept]
    assert [line.split(" · ")[0] for line in kept] == [
        "resuming from step_00000001",
        "step 2/10",
        "WARNING: the disk is slow",
        "step 4/10",
        "error: /data: the disk is full",
        "  fix: free space",
    ]


def test_an_uncaught_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), keep_output(tmp_path / "rank_0.log"):
        _ = 1 / 0
    assert "ZeroDivisionError: division by zero" in (tmp_path / "rank_0.log").read_text()


def test_the_other_ranks_keep_nothing(tmp_path: Path) -> None:
    with keep_output(tmp_path / "rank_0.log"):
        TrainingProgress(10, 0, 64, visible=False).say("of rank 1")
    assert not (tmp_path / "rank_0.log").exists()


def test_the_size_is_bounded_and_logs_prints_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept_output, "_MOST_BYTES", 1000)
    run = RunFolder(tmp_path)
    run.config.write_text("train: {global_batch: 64}\n")
    logs = run.logs / "20260101T000000_1"
    logs.mkdir(parents=True)
    with keep_output(logs / "rank_0.log"):
        for number in range(200):
            PRINTED.info("line %d of a long output", number)
    assert sum(path.stat().st_size for path in logs.iterdir()) <= 2000
    assert show(run.path, 0, follow_it=False) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("line")]
    assert lines[-1].startswith("line 199")
    assert len(lines) > 40
    assert lines == [f"line {number} of a long output" for number in range(200 - len(lines), 200)]


def test_a_disk_that_takes_no_more_does_not_disturb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank_0.log").mkdir()
    with keep_output(tmp_path / "rank_0.log"):
        PRINTED.info("not kept")
        progress = TrainingProgress(10, 0, 64, visible=True)
        progress.say("still printed")
        progress.close()
    assert "still printed" in capsys.readouterr().err


ABORTS = """
import os, sys
from pathlib import Path
from data_pipelines.log import LOGGER
from launch.local.kept_output import keep_output
with keep_output(Path(sys.argv[1])):
    LOGGER.warning("of ours")
    os.write(1, b"of a C library\\n")
    os.write(2, b"its last words\\n")
    os.abort()
"""


def test_the_last_words_of_a_library_that_aborts_reach_the_terminal(tmp_path: Path) -> None:
    kept = tmp_path / "rank_0.log"
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", ABORTS, kept],
        capture_output=True,
        text=True,
        env=os.environ | paths,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    assert done.stdout == "of a C library\n"
    assert "of ours" in done.stderr
    assert done.stderr.endswith("its last words\n")
    assert [line.split(": ")[-1] for line in kept.read_text().splitlines()] == ["of ours"]
