"""The name that `ps`, `top` and `pgrep` show for a process."""

import sys
from contextlib import suppress
from pathlib import Path


def name_process(name: str) -> None:
    """Name this process, where the system can.

    A rank that is a fork has the command line of its launcher or agent, so only the name tells them apart.

    Args:
        name: the name, without spaces: SLURM's proctrack/linuxproc signals no process whose name has one. Linux keeps
            its first 15 bytes.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/comm").write_text(name)


def name_of_rank(rank: int | str) -> str:
    """Return the name of the process of a rank."""
    return f"rank{rank}.all4one"


def name_of_check(node: int) -> str:
    """Return the name of the process that checks a node of a job."""
    return f"check{node}.all4one"
