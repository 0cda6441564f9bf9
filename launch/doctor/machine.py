"""Checks of `all4one doctor`: the folder of runs and its file system, and this machine's limits and names."""

import os
import resource
import shutil
import socket
import tempfile
import time
from pathlib import Path

from launch.doctor.findings import Finding, ok, problem, warning

GIB = 2**30
LITTLE_DISK, LITTLE_SHM = 20 * GIB, GIB
FEW_FILES = 4096
CLOCKS_APART_S = 5.0
NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "orangefs",
    "panfs",
    "pvfs2",
    "quobyte",
    "smb3",
    "virtiofs",
    "wekafs",
}
LOCAL = {
    "bcachefs",
    "btrfs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "overlay",
    "ramfs",
    "tmpfs",
    "vfat",
    "xfs",
    "zfs",
}


def run_folder(runs: Path) -> list[Finding]:
    """Whether runs can be made there, and the room for them."""
    folder = _existing(runs)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return problem(
            "run folder", f"{folder} cannot be written: {error.strerror}", "another with run.folder=FOLDER"
        )
    free = shutil.disk_usage(folder).free
    said = f"{folder.absolute()} can be written, {free / GIB:.0f} GiB free"
    if free < LITTLE_DISK:
        return warning("run folder", said, "a ResNet-50's checkpoints take about 1 GiB, three are kept")
    return ok("run folder", said)


def locks(runs: Path) -> list[Finding]:
    """What the lock of a run and whole files rely on: a name goes to one creator, a rename is all or nothing, and time
    stamps keep up with the clock."""
    with tempfile.TemporaryDirectory(dir=_existing(runs), prefix=".doctor-") as name:
        lock, new = Path(name, "lock"), Path(name, "new")
        os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            return problem("locks", "a file can be created twice: two jobs could train one run", _ELSEWHERE)
        new.write_text("new")
        with lock.open() as old:
            new.replace(lock)
            if old.read() != "" or lock.read_text() != "new" or new.exists():
                return problem("locks", "a rename does not replace a file as a whole", _ELSEWHERE)
        os.utime(lock)
        apart = lock.stat().st_mtime - time.time()
    if abs(apart) > CLOCKS_APART_S:
        return warning(
            "locks",
            f"the file system's clock is {apart:+.0f} s from this machine's: ages are shown wrong",
            "administrators: NTP on both",
        )
    return ok("locks", "a name goes to one creator, a rename is whole, clocks agree")


_ELSEWHERE = "put runs on another file system with run.folder=FOLDER"


def shared(runs: Path) -> list[Finding]:
    """Whether other machines can see the runs, as far as the file system's type says."""
    kind, mounted = _mount(_existing(runs).resolve())
    base = kind.removeprefix("fuse.")
    if base in NETWORK:
        return ok("file system", f"{kind}: other machines can see it")
    if base not in LOCAL:
        return ok(
            "file system", f"{kind} at {mounted}: whether other machines see it cannot be told from here"
        )
    if shutil.which("sbatch") is None:
        return ok("file system", f"{kind}: of this machine alone, as runs on it need")
    return warning(
        "file system",
        f"{kind} at {mounted} is this machine's own, unless it is exported: jobs would not see it",
        "put runs and the environment on a shared file system: run.folder=FOLDER",
    )


def limits(_: Path) -> list[Finding]:
    """Open files, and memory that may be locked where devices want it."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{_amount(files)} open files"
    found = (
        ok("open files", said)
        if files in range(FEW_FILES, 2**63) or files == resource.RLIM_INFINITY
        else warning(
            "open files", f"{said}: many shards and processes may need more", f"ulimit -n {min(most, 65536)}"
        )
    )
    locked, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and any(Path("/sys/class/infiniband").glob("*")):
        return found + warning(
            "locked memory",
            f"{locked // 1024} KiB: InfiniBand needs more",
            "administrators: `memlock unlimited` in limits.conf, and for slurmd LimitMEMLOCK=infinity",
        )
    memory = (
        "unlimited" if locked == resource.RLIM_INFINITY else f"{locked // 1024} KiB, and no InfiniBand here"
    )
    return found + ok("locked memory", memory)


def shared_memory(_: Path) -> list[Finding]:
    """Room for what processes of one machine hand to each other."""
    usage = shutil.disk_usage("/dev/shm")
    said = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < LITTLE_SHM:
        return warning("/dev/shm", f"{said}: NCCL may fail", "in a container: --shm-size=8g or --ipc=host")
    return ok("/dev/shm", said)


def network(_: Path) -> list[Finding]:
    """A port can be had, and this machine's name leads to an address that others can reach."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
    found, name = ok("ports", f"a free one can be bound ({port})"), socket.gethostname()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return found + problem(
            "host name", f"{name} does not resolve: {error.strerror}", f"a line for {name} in /etc/hosts"
        )
    reachable = [a for a in addresses if not a.startswith("127.") and a != "::1"]
    if not reachable and shutil.which("sbatch") is not None:
        return found + warning(
            "host name",
            f"{name} is {', '.join(addresses)}: gloo would tell other machines to reach it there",
            f"GLOO_SOCKET_IFNAME=eth0 (the network's interface), or the network's address for {name} in /etc/hosts",
        )
    return found + ok("host name", f"{name} is {', '.join(reachable or addresses)}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _mount(folder: Path) -> tuple[str, str]:
    """Type and place of the file system that a folder is on."""
    best = ("?", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        place = fields[4].encode().decode("unicode_escape")
        # the last of several that are mounted at one place is the one that is seen
        if folder.is_relative_to(place) and len(place) >= len(best[1]):
            best = fields[fields.index("-") + 1], place
    return best


def _amount(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
