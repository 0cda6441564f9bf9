import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.local import rank_processes

pytestmark = pytest.mark.slow
LAUNCHER = """
import sys
from pathlib import Path
from launch.local.processes import launch
from launch.local.rank_processes import allow_forks, can_fork
allow_forks()
{before}
print("forks" if can_fork() else "starts anew", flush=True)
sys.exit(launch("the_job", [], nproc=2, logs=Path(sys.argv[1])))
"""
TORCH = "import torch"
OPENMP = "torch.set_num_threads(2); torch.rand(1000, 1000).exp()"
BUSY = f"{TORCH}; {OPENMP}"
JOB = """
import atexit, os, signal, sys, weakref
class Library:
    pass
def import_all():
    {imports}
def main():
    {imports}
    from launch.local.rank_processes import heed_signals
    heed_signals()
    {work}
    atexit.register(print, "rank", os.environ["RANK"], "has left")
    global library
    library = Library()
    weakref.finalize(library, print, "rank", os.environ["RANK"], "has finalized")
    terminal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("rank", os.environ["RANK"], "of", os.getppid() == int(os.environ["ALL4ONE_PARENT"]), terminal, flush=True)
    return 7 if os.environ["RANK"] == "1" else 0
"""
NOT_THE_COMMAND = "from launch.local import rank_processes; rank_processes._forking.allowed = False"
AFTER_A_FORK = "launch('the_job', [], nproc=1, logs=Path(sys.argv[1]))\n" + BUSY
IGNORED = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
UNFLUSHED = "import io; print('once', end=' '); sys.stdout = io.StringIO()"
JOINED = "import threading; own = threading.Thread(target=int); own.start(); own.join()"
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


def launcher(folder: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Run a launcher of two ranks. They compute with torch if the launcher has imported it."""
    computes = TORCH in before
    job = JOB.format(imports=TORCH if computes else "pass", work=OPENMP if computes else "pass")
    (folder / "the_job.py").write_text(job)
    (folder / "launcher.py").write_text(LAUNCHER.format(before=before))
    return subprocess.run(
        [sys.executable, folder / "launcher.py", folder / "logs"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("before", "way"),
    [
        (TORCH, "forks"),
        (IGNORED, "forks"),
        (BUSY, "starts anew"),
        (JOINED, "forks"),
        (THREAD, "starts anew"),
        (AFTER_A_FORK, "starts anew"),
        (NOT_THE_COMMAND, "starts anew"),
    ],
    ids=[
        "idle",
        "ends ignored",
        "openmp",
        "joined thread",
        "thread",
        "openmp after a fork",
        "not the command",
    ],
)
def test_ranks_run_alike_as_forks_and_as_new_processes(tmp_path: Path, before: str, way: str) -> None:
    exits = (
        "import atexit, weakref; atexit.register(print, 'the launcher has left', flush=True)\n"
        "weakref.finalize(sys, print, 'the launcher has finalized', flush=True)"
    )
    done = launcher(tmp_path, f"{exits}\n{before}")
    assert next(line for line in done.stdout.splitlines() if line in ("forks", "starts anew")) == way
    assert (done.returncode, done.stdout.count("the launcher has left")) == (7, 1), done.stdout + done.stderr
    assert done.stdout.count("the launcher has finalized") == 1
    said = {0: done.stdout, 1: (tmp_path / "logs" / "rank_1.log").read_text()}
    for rank, text in said.items():
        assert f"rank {rank} of True True" in text
        assert f"rank {rank} has left" in text
        assert f"rank {rank} has finalized" in text


def test_what_a_launcher_has_not_written_yet_is_written_once(tmp_path: Path) -> None:
    done = launcher(tmp_path, UNFLUSHED)
    assert done.stdout.count("once") == 1
    assert "once" not in (tmp_path / "logs" / "rank_1.log").read_text()


SLOW_IMPORT = """
import os, pathlib, time
def import_all():
    pathlib.Path(os.environ["IMPORTING"]).touch()
    time.sleep(2)
def main():
    pathlib.Path(os.environ["IMPORTING"]).unlink()
    return 0
"""


def test_a_signal_during_imports_starts_no_rank(tmp_path: Path) -> None:
    (tmp_path / "the_job.py").write_text(SLOW_IMPORT)
    (tmp_path / "launcher.py").write_text(LAUNCHER.format(before=""))
    importing = tmp_path / "importing"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "launcher.py", tmp_path / "logs"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "IMPORTING": str(importing)},
    )
    while not importing.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping" in said
    assert "Traceback" not in said
    assert importing.exists()


class Driver:
    def __init__(self, answer: int) -> None:
        self.answer = answer

    def cuDeviceGetCount(self, count: object) -> int:
        return self.answer


@pytest.mark.parametrize(("answer", "may"), [(3, True), (0, False), (100, False)])
def test_a_process_that_has_touched_a_device_is_not_forked(
    answer: int, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes._forking, "allowed", True)
    monkeypatch.setattr(rank_processes, "_has_threads", lambda: False)
    monkeypatch.setattr(rank_processes.ctypes, "CDLL", lambda name: Driver(answer))
    assert rank_processes.can_fork() is may
