"""How many cores this process may use, and how many it really has to itself."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MOST_CORES = "ALL4ONE_CORES"
"""Variable with the most cores that a process may use, where several runs share this machine."""
OWN_SHARE = 0.8
"""Share of a core's time that a thread must get for the core to count as its own."""
LOOK_S = 0.15
"""Duration of one look at the cores, seconds."""
LOOKS = 3
"""Number of looks, so that a short disturbance does not decide."""


def usable_cores() -> int:
    """Return the number of cores that this process may use: by its affinity, by the quotas of its cgroups, and by the
    part that its starter has given it."""
    allowed = len(os.sched_getaffinity(0))
    part = int(os.environ.get(MOST_CORES, allowed))
    quotas = _quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, min([allowed, part, *map(int, quotas)]))


def cores_per_process() -> int:
    """Return the number of cores that this process may use. Several processes may share the node."""
    if bound := os.environ.get("SLURM_CPUS_PER_TASK"):
        return int(bound)
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def own_cores(most: int) -> int:
    """Return the number of cores that this process has to itself now, from 1 to `most`.

    As many threads compute for a moment, and each compares its CPU time with the time that passed. A thread that shares
    its core with another program slows every parallel loop down, because the other threads wait for it. Where several
    runs share the machine, the part of this one is not measured while the others start.
    """
    if MOST_CORES in os.environ:
        return most
    best = 1
    for _ in range(LOOKS if most > 1 else 0):
        best = max(best, sum(share >= OWN_SHARE for share in _shares(most)))
        if best == most:
            break
    return best


def waited_for_a_core() -> float | None:
    """Return the seconds for which this process's first thread was ready to run and had no core.

    None: the system does not say. Linux does, in `/proc/self/task/TID/schedstat` (proc(5): run time, wait, slices).
    """
    try:
        return int(Path(f"/proc/self/task/{os.getpid()}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


class Throttling:
    """The time in which control groups have not let this process run, because their quota of CPU time was used up.

    Args:
        cgroup: the file that names the process's groups.
        root: the folder where groups are mounted.
    """

    def __init__(self, cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> None:
        self._cgroup, self._root = cgroup, root
        self._before = self._read()

    def seconds(self) -> float:
        """Return the time since the last call, in seconds. Each throttled core counts. 0: the system does not tell."""
        before, self._before = self._before, self._read()
        # Only the same groups can be compared: the process may have been moved.
        return max((now - before[name] for name, now in self._before.items() if name in before), default=0.0)

    def _read(self) -> dict[Path, float]:
        groups = _cpu_groups(self._cgroup, self._root)
        return {folder: seconds for folder in groups if (seconds := _throttled(folder)) is not None}


def _throttled(folder: Path) -> float | None:
    """Return the throttled time of a group in seconds (`cpu.stat` of versions 1 and 2). None: it does not tell."""
    try:
        values = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return (
            int(values["throttled_time"]) / 1e9
            if "throttled_time" in values
            else int(values["throttled_usec"]) / 1e6
        )
    except (OSError, ValueError, KeyError):
        return None


def _shares(threads: int) -> list[float]:
    """Return, for each of some threads that compute at once, CPU time as a share of the time that passed."""
    found, block, together = [0.0] * threads, bytes(1 << 20), threading.Barrier(threads)

    def compute(number: int) -> None:
        together.wait()
        start, used = time.monotonic(), time.thread_time()
        while time.monotonic() - start < LOOK_S:
            hashlib.sha256(block)  # without Python's global lock
        found[number] = (time.thread_time() - used) / (time.monotonic() - start)

    workers = [threading.Thread(target=compute, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def _quotas(cgroup: Path, root: Path) -> list[float]:
    """Return the cores that each CPU quota above this process allows. Containers and batch systems set quotas.

    Args:
        cgroup: the file that names the process's cgroups (cgroups(7), versions 1 and 2).
        root: the folder where cgroups are mounted.
    """
    return [quota for folder in _cpu_groups(cgroup, root) for quota in _quota(folder)]


def _cpu_groups(cgroup: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups for CPU time, and of those above them. Arguments as for `_quotas`."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        # In a container, the cgroup's own folder may be mounted as the root.
        for folder in [*(top / place.lstrip("/") / "x").parents]:
            if folder == top.parent:
                break
            yield folder


def _quota(folder: Path) -> list[float]:
    try:
        if (file := folder / "cpu.max").is_file():
            limit, period = file.read_text().split()
            return [] if limit == "max" else [float(limit) / float(period)]
        limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [] if int(limit) <= 0 else [float(limit) / float(period)]
    except (OSError, ValueError):
        return []
