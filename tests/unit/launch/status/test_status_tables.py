"""`all4one status --watch` on a real terminal."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "launch.cli", "status"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one run that was submitted, on a machine whose controller is down."""
    run = tmp_path / "runs" / "one"
    (run / "slurm").mkdir(parents=True)
    (run / "config.yaml").write_text("train: {global_batch: 64}\n")
    (run / "slurm" / "jobs.jsonl").write_text('{"job": "7", "chain": ["7"]}\n')
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2\nexit 1\n")
    squeue.chmod(0o755)
    return run.parent


def until(terminal: int, word: str) -> str:
    """What a terminal shows until a word comes."""
    shown = ""
    while word not in shown:
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.slow
def test_runs_are_shown_anew_until_ctrl_c_also_while_the_controller_is_down(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PATH": f"{folder.parent}/bin:{os.environ['PATH']}", "COLUMNS": "100"}
    watching = subprocess.Popen(
        [*COMMAND, folder, "--watch", "--interval", "0.5"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    first = until(ours, "Ctrl-C")
    assert "one" in first
    assert "does not answer" in first
    (folder / "two").mkdir()
    (folder / "two" / "config.yaml").write_text("train: {global_batch: 64}\n")
    until(ours, "│ two")
    watching.send_signal(signal.SIGINT)
    while watching.poll() is None:
        try:
            os.read(ours, 4096)
        except OSError:  # the other end is closed
            watching.wait(timeout=10)
    os.close(ours)
    assert watching.returncode == 0


@pytest.mark.parametrize(("more", "said"), [([], "needs a terminal"), (["--json"], "cannot be combined")])
@pytest.mark.slow
def test_watching_without_a_terminal_and_for_programs_is_refused(
    folder: Path, more: list[str], said: str
) -> None:
    done = subprocess.run([*COMMAND, folder, "--watch", *more], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
