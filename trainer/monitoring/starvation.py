"""Notices that other programs take the cores of a run."""

import time

from data_pipelines.cores import cores_per_process, waited_for_a_core

LAP_S = 60.0
"""Time over which shares are taken, seconds."""
WAITING = 0.25
"""Share of the time that the training thread waits for a core, from which it counts as starved."""
OWN_USE = 0.85
"""Share of its cores from which on the process itself keeps them busy, and no other program is to blame."""


class Starvation:
    """Compares the time that the training thread waits for a core with the time that passes. Linux only.

    Call `look` from the thread that made this.
    """

    def __init__(self) -> None:
        self._cores = cores_per_process()
        self._start = self._now()
        self._told = self._start is None

    def look(self) -> str | None:
        """Return a warning if the last minute was starved. At most one is returned."""
        now = None if self._told else self._now()
        if now is None or self._start is None or now[0] - self._start[0] < LAP_S:
            return None
        passed, waited, used = (a - b for a, b in zip(now, self._start, strict=True))
        self._start = now
        if waited / passed < WAITING or used / passed > OWN_USE * self._cores:
            return None
        self._told = True
        return (
            f"other programs use this machine's cores: training waits {waited / passed:.0%} of the time for one. End "
            "them, or use fewer threads with parallel.torch_threads=1 (this changes the last bits of results)"
        )

    def _now(self) -> tuple[float, float, float] | None:
        """Return the time, the training thread's wait, and the CPU time of all threads, seconds."""
        waited = waited_for_a_core()
        return None if waited is None else (time.monotonic(), waited, time.process_time())
