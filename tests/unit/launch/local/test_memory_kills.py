import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.local import memory_kills

GROWS = """
import os, sys
from launch.local.memory_kills import memory_kills, why_killed
before = memory_kills()
child = os.fork()
if not child:
    if sys.argv[1] == "grow":
        grown = b"x" * (512 << 20)
    os.kill(os.getpid(), 9)
_, status = os.waitpid(child, 0)
print(before, os.waitstatus_to_exitcode(status), why_killed(before))
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 256 MiB."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((Path("/sys/fs/cgroup/memory") / p.lstrip("/") for _, c, p in lines if c == "memory"), None)
    group = (own or Path("/sys/fs/cgroup")) / f"all4one_{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if own else "memory.max")
    try:
        group.mkdir()
        limit.write_text(str(256 << 20))
    except OSError:
        pytest.skip("making a control group of memory needs root, and a system that allows it")
    yield group
    group.rmdir()


@pytest.mark.parametrize(("does", "because_of_memory"), [("grow", True), ("stay", False)])
def test_a_kill_for_lack_of_memory_is_told_from_another_one(
    small_group: Path, does: str, because_of_memory: bool
) -> None:
    shell = f'echo $$ > {small_group}/cgroup.procs && exec "$0" "$@"'
    command = ["sh", "-c", shell, sys.executable, "-c", GROWS, does]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, code, *why = done.stdout.split()
    assert (before, code) == ("0", str(-signal.SIGKILL))
    assert ("memory" in why) == because_of_memory


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/system.slice/job_7\n", "system.slice/job_7/memory.events", "low 0\noom 9\noom_kill 3\n"),
        (
            "9:cpu:/\n4:memory:/slurm/job_7\n0::/\n",
            "memory/slurm/job_7/memory.oom_control",
            "under_oom 0\noom_kill 3\n",
        ),
    ],
)
def test_both_versions_of_control_groups_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, file: str, text: str
) -> None:
    monkeypatch.setattr(memory_kills, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory_kills, "_OWN", tmp_path / "own")
    assert memory_kills.memory_kills() is None
    (tmp_path / "own").write_text(own)
    assert memory_kills.memory_kills() is None
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert memory_kills.memory_kills() == 3
    assert memory_kills.why_killed(3) == ""
    assert "memory ran out" in memory_kills.why_killed(2)
    assert memory_kills.why_killed(None) == " (out of memory?)"
