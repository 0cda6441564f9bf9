import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.local import rank_processes

LAUNCHER = """
import sys
from pathlib import Path
from launch.local.processes import launch
from launch.local.rank_processes import can_fork
{before}
print("forks" if can_fork() else "starts anew", flush=True)
sys.exit(launch("the_job", [], nproc=2, logs=Path(sys.argv[1])))
"""
JOB = """
import atexit, os, signal, sys
def import_all():
    import torch
def main():
    import torch
    torch.set_num_threads(2)
    torch.rand(1000, 1000).exp().sum()  # OpenMP's threads
    atexit.register(print, "rank", os.environ["RANK"], "has left")
    terminal = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("rank", os.environ["RANK"], "of", os.getppid() == int(os.environ["ALL4ONE_PARENT"]), terminal, flush=True)
    return 7 if os.environ["RANK"] == "1" else 0
"""
BUSY = "import torch; torch.set_num_threads(2); torch.rand(1000, 1000).exp()"
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


@pytest.mark.parametrize(
    ("before", "way"),
    [("import torch", "forks"), (BUSY, "starts anew"), (THREAD, "starts anew")],
    ids=["idle", "openmp", "thread"],
)
def test_ranks_run_alike_as_forks_and_as_new_processes(tmp_path: Path, before: str, way: str) -> None:
    (tmp_path / "the_job.py").write_text(JOB)
    launcher = tmp_path / "launcher.py"
    exits = "import atexit; atexit.register(print, 'the launcher has left', flush=True)"
    launcher.write_text(LAUNCHER.format(before=f"{before}\n{exits}"))
    done = subprocess.run(
        [sys.executable, launcher, tmp_path / "logs"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        timeout=120,
        check=False,
    )
    own = [line for line in done.stdout.splitlines() if line in ("forks", "starts anew")]
    assert own[0] == way
    assert (done.returncode, done.stdout.count("the launcher has left")) == (7, 1), done.stdout + done.stderr
    said = {0: done.stdout, 1: (tmp_path / "logs" / "rank_1.log").read_text()}
    for rank, text in said.items():
        assert f"rank {rank} of True True" in text
        assert f"rank {rank} has left" in text


class Driver:
    def __init__(self, answer: int) -> None:
        self.answer = answer

    def cuDeviceGetCount(self, count: object) -> int:
        return self.answer


@pytest.mark.parametrize(("answer", "may"), [(3, True), (0, False), (100, False)])
def test_a_process_that_has_touched_a_device_is_not_forked(
    answer: int, may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes, "_has_threads", lambda: False)
    monkeypatch.setattr(rank_processes.ctypes, "CDLL", lambda name: Driver(answer))
    assert rank_processes.can_fork() is may
