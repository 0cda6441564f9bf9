import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.local.memory_kills import memory_kills
from launch.local.processes import launch

JOB = """
import os, pathlib, signal, sys, time

def import_all():
    pass

def main():
    rank = int(os.environ["RANK"])
    folder = pathlib.Path(sys.argv[1])
    mode = sys.argv[2]
    keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    (folder / f"rank{rank}").write_text(" ".join(os.environ[k] for k in keys))
    (folder / f"cores{rank}").write_text(os.environ.get("SLURM_CPUS_PER_TASK", "its share"))
    if mode == "fail" and rank == 1:
        print("the reason", file=sys.stderr)
        sys.exit(7)
    if mode == "signal":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if mode == "lose":
        sys.exit(3 if rank == 0 else 7)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if mode == "finish":
        (folder / f"waiting{rank}").touch()
        while not (folder / "hung up").exists():
            time.sleep(0.02)
    if mode in ("fail", "signal", "deaf"):
        (folder / f"waiting{rank}").touch()
        time.sleep(60)
    return 0
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "the_job.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


def test_every_rank_gets_its_place_in_one_group(job: Path) -> None:
    assert launch("the_job", [str(job), "end"], nproc=3, logs=job / "logs") == 0
    seen = [(job / f"rank{r}").read_text().split() for r in range(3)]
    assert [s[0] for s in seen] == ["0", "1", "2"]
    assert [s[1] for s in seen] == ["0", "1", "2"]
    assert {tuple(s[2:]) for s in seen} == {("3", "3", "127.0.0.1", seen[0][5])}


def test_a_thread_launches_ranks_too_and_leaves_signals_alone(job: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(launch("the_job", [str(job), "end"], nproc=1, logs=job / "logs"))
    )
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failed_rank_ends_the_others_and_its_log_is_shown(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.local.supervision.GRACE_SECONDS", 0.2)
    start = time.monotonic()
    assert launch("the_job", [str(job), "fail"], nproc=2, logs=job / "logs") == 7
    assert time.monotonic() - start < 30
    shown = capsys.readouterr().err
    assert "rank 1 failed" in shown
    assert "the reason" in shown


def test_the_rank_that_failed_by_itself_is_named_not_the_one_that_lost_it(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch("the_job", [str(job), "lose"], nproc=2, logs=job / "logs") == 7
    assert "rank 1 failed" in capsys.readouterr().err


def test_a_rank_that_the_kernel_killed_is_said(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("the_job", [str(job), "killed"], nproc=1, logs=job / "logs") == 137
    why = " (out of memory?)" if memory_kills() is None else ""
    assert f"rank 0 was ended by SIGKILL{why}\n" in capsys.readouterr().err


def test_a_third_signal_ends_ranks_that_do_not_listen(job: Path) -> None:
    process = start(job, "deaf", stderr=subprocess.PIPE)
    wait_for(job, process)
    for _ in range(3):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 137
    assert b"ended at once, without a checkpoint" in said
    assert b"out of memory" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_handed_to_every_rank(job: Path, number: int) -> None:
    process = start(job, "signal")
    wait_for(job, process)
    os.kill(process.pid, number)
    assert process.wait(timeout=20) == 143


def test_a_run_under_nohup_outlives_its_terminal(job: Path) -> None:
    process = start(job, "finish", "nohup")
    wait_for(job, process)
    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.2)
    (job / "hung up").touch()
    assert process.wait(timeout=20) == 0


@pytest.mark.slow
def test_ranks_meet_though_standard_files_are_closed(tmp_path: Path) -> None:
    """The socket where they meet would get the number of the standard input."""
    (tmp_path / "listener.py").write_text(LISTENER)
    code = (
        "import sys; from pathlib import Path; from launch.local.processes import launch; "
        "sys.exit(launch('listener', [sys.argv[1]], nproc=2, logs=Path(sys.argv[1])))"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", code, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "listens1").exists()


def test_in_an_interactive_job_the_ranks_share_its_cores(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")  # of the shell, which starts all ranks
    assert launch("the_job", [str(job), "end"], nproc=2, logs=job / "logs") == 0
    assert (job / "cores1").read_text() == "its share"


def start(job: Path, mode: str, *under: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    code = (
        "import pathlib, sys; from launch.local.processes import launch; folder, mode = sys.argv[1:]; "
        "sys.exit(launch('the_job', [folder, mode], nproc=2, logs=pathlib.Path(folder)))"
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        command = [*under, sys.executable, "-c", code, str(job), mode]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for(job: Path, process: subprocess.Popen[bytes]) -> None:
    while not all((job / f"waiting{r}").exists() for r in range(2)):
        assert process.poll() is None
        time.sleep(0.02)


def test_no_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        launch("the_job", [], nproc=0, logs=tmp_path)


LISTENER = """
import pathlib, sys
import psutil
import torch.distributed as dist
from trainer.distributed.objects import broadcast_object
from trainer.distributed.process_group import initialize

def import_all():
    pass

def main():
    process = initialize()
    assert broadcast_object(process.rank) == 0
    dist.barrier()
    open_to = {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    (pathlib.Path(sys.argv[1]) / f"listens{process.rank}").write_text(" ".join(sorted(open_to)))
    dist.barrier()
    return 0
"""


@pytest.mark.slow
def test_ranks_of_one_machine_listen_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listener.py").write_text(LISTENER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert launch("listener", [str(tmp_path)], nproc=2, logs=tmp_path / "logs") == 0
    for rank in range(2):
        found = set((tmp_path / f"listens{rank}").read_text().split())
        assert found <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert rank or found
