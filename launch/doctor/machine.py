"""Checks of `all4one doctor`: the run folder, its file system, and the limits and network names of this machine."""

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
    """Check that runs can be created there, and the free space."""
    folder = _existing(runs)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return problem(
            "run folder",
            f"{folder} cannot be written: {error.strerror}",
            "choose another folder with run.folder=FOLDER",
        )
    free = shutil.disk_usage(folder).free
    said = f"{folder.absolute()} is writable, {free / GIB:.0f} GiB free"
    if free < LITTLE_DISK:
        return warning(
            "run folder", said, "free some space: three checkpoints of a ResNet-50 take about 1 GiB"
        )
    return ok("run folder", said)


def locks(runs: Path) -> list[Finding]:
    """Check what run locks and atomic writes rely on.

    Only one process can create a file, a rename is atomic, and time stamps agree with the clock.
    """
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
                return problem("locks", "a rename does not replace a file atomically", _ELSEWHERE)
        os.utime(lock)
        apart = lock.stat().st_mtime - time.time()
    if abs(apart) > CLOCKS_APART_S:
        return warning(
            "locks",
            f"the file system's clock is {apart:+.0f} s off this machine's, so ages in `all4one status` are wrong",
            "administrators: enable NTP on both",
        )
    return ok("locks", "file creation is exclusive, renames are atomic, clocks agree")


_ELSEWHERE = "put runs on another file system with run.folder=FOLDER"


def shared(runs: Path) -> list[Finding]:
    """Check whether other nodes can see the runs, judging by the type of the file system."""
    kind, mounted = _mount(_existing(runs).resolve())
    base = kind.removeprefix("fuse.")
    if base in NETWORK:
        return ok("file system", f"{kind}: visible from other nodes")
    if base not in LOCAL:
        return ok("file system", f"{kind} at {mounted}: it is unknown whether other nodes can see it")
    if shutil.which("sbatch") is None:
        return ok("file system", f"{kind}: only on this machine, which is enough for runs here")
    return warning(
        "file system",
        f"{kind} at {mounted} is local to this machine unless it is exported, so jobs on other nodes cannot see it",
        "put runs and the environment on a shared file system: run.folder=FOLDER",
    )


def limits(_: Path) -> list[Finding]:
    """Check the limits of open files, and of locked memory if a device needs it."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{_amount(files)} open files"
    found = (
        ok("open files", said)
        if files in range(FEW_FILES, 2**63) or files == resource.RLIM_INFINITY
        else warning(
            "open files",
            f"{said}: many shards and processes may need more",
            f"run `ulimit -n {min(most, 65536)}`",
        )
    )
    locked, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and any(Path("/sys/class/infiniband").glob("*")):
        return found + warning(
            "locked memory",
            f"{locked // 1024} KiB: InfiniBand needs more",
            "administrators: set `memlock unlimited` in limits.conf, and LimitMEMLOCK=infinity for slurmd",
        )
    memory = (
        "unlimited"
        if locked == resource.RLIM_INFINITY
        else f"{locked // 1024} KiB, which is enough without InfiniBand"
    )
    return found + ok("locked memory", memory)


def shared_memory(_: Path) -> list[Finding]:
    """Check the free shared memory that processes of one node use to exchange data."""
    usage = shutil.disk_usage("/dev/shm")
    said = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < LITTLE_SHM:
        return warning(
            "/dev/shm", f"{said}: NCCL may fail", "in a container, use --shm-size=8g or --ipc=host"
        )
    return ok("/dev/shm", said)


def network(_: Path) -> list[Finding]:
    """Check that a port can be bound, and that the host name resolves to an address that other nodes can reach."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
    found, name = ok("ports", f"a free port can be bound ({port})"), socket.gethostname()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return found + problem(
            "host name", f"{name} does not resolve: {error.strerror}", f"add a line for {name} to /etc/hosts"
        )
    reachable = [a for a in addresses if not a.startswith("127.") and a != "::1"]
    if not reachable and shutil.which("sbatch") is not None:
        return found + warning(
            "host name",
            f"{name} resolves to {', '.join(addresses)}, an address that gloo on other nodes cannot reach",
            f"set GLOO_SOCKET_IFNAME to the network interface, or put the network address of {name} in /etc/hosts",
        )
    return found + ok("host name", f"{name} resolves to {', '.join(reachable or addresses)}")


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _mount(folder: Path) -> tuple[str, str]:
    """Return type and mount point of the file system of a folder."""
    best = ("?", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        place = fields[4].encode().decode("unicode_escape")
        # of several mounts at one place, the last one is visible
        if folder.is_relative_to(place) and len(place) >= len(best[1]):
            best = fields[fields.index("-") + 1], place
    return best


def _amount(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
