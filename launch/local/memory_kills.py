"""Whether the kernel has killed a process because memory ran out. Linux counts such kills in each control group."""

import re
from pathlib import Path

ADVICE = "give the run more (--mem in SLURM jobs), or lower data.prefetch or data.decode_threads"
"""What helps if memory ran out."""
_OWN = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def memory_kills() -> int | None:
    """Return how many processes of this process's control group were killed because memory ran out. SLURM gives each
    task a control group, which its children share. None: the system does not tell."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if controllers == "memory":
            file = _GROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
        elif number == "0" and not controllers:
            file = _GROUPS / path.lstrip("/") / "memory.events"
        else:
            continue
        try:
            found = _KILLS.search(file.read_text())
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def why_killed(before: int | None) -> str:
    """Return what to add to the message that SIGKILL has ended a process. Empty: memory did not run out.

    Args:
        before: what `memory_kills` returned when the process started.
    """
    now = memory_kills()
    if before is None or now is None:
        return " (out of memory?)"
    return f", because memory ran out: {ADVICE}" if now > before else ""
