"""A folder of downloaded files that several processes share, kept under a size.

A file has its name when it is whole. Before that it is `NAME.SIZE.part`, locked by the process that writes it; what a
killed process leaves is gone on with from where it stops. To make room, the least recently used files go first, but
none on which somebody holds a lock: whoever is about to read a file locks it together with others. The kernel takes
back the locks of a process that dies.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

Read = Callable[[int], bytes]
"""Some bytes of a file from an offset on, one at least and none past its end."""

_PART = re.compile(r".+\.(\d+)\.part")
_POLL_SECONDS = 0.05


class CacheFull(Exception):
    """A file fits neither under the cap nor on the disk, although all that may go is gone."""


class ReadCancelled(Exception):
    """Whoever waits for a file is to end: nothing is wrong with it."""


class Descriptor:
    """An open file that closes, and loses its locks, when it is told to or when the last that uses it lets go."""

    number = -1

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        self.number = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> "Descriptor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close it whoever uses it. Idempotent."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def touch(self) -> None:
        """Make it the most recently used file."""
        now = time.time_ns()
        os.utime(self.number, ns=(now, now))

    def lock(self, how: int) -> bool:
        """Try to get a lock, `fcntl.LOCK_EX` (alone) or `fcntl.LOCK_SH` (with others)."""
        try:
            fcntl.flock(self.number, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: Path) -> bool:
        """Whether the file still has this name: it may have been renamed, removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self.number), path.stat())
        except FileNotFoundError:
            return False


class _Entry(NamedTuple):
    used: int
    """When, in nanoseconds."""
    path: Path
    size: int
    """Bytes; of a file that is being downloaded, those that it will have."""


class Cache:
    """Files by name, `SET/FILE`.

    Args:
        folder: where they lie, on a disk of this machine.
        max_bytes: what all of them may hold, together with what is being downloaded.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def open(self, name: str) -> Descriptor | None:
        """A file, from now on the most recently used; none where it is not there."""
        try:
            found = Descriptor(self.folder / name)
        except FileNotFoundError:
            return None
        found.touch()
        return found

    def keep(self, name: str, found: Descriptor) -> bool:
        """Save an open file from eviction for as long as the descriptor lives; false where that is too late."""
        return found.lock(fcntl.LOCK_SH) and found.is_at(self.folder / name)

    def drop(self, name: str, wrong: Descriptor) -> None:
        """Remove a file whose bytes are wrong, unless another has taken its place."""
        path = self.folder / name
        if wrong.is_at(path):
            path.unlink(missing_ok=True)

    def fetch(self, name: str, size: int, read: Read, stop: Event) -> None:
        """Download a file, or wait until another process has; it may be evicted right after.

        Raises:
            NoRoom: there is none for it.
            Stopped: `stop` was set.
            OSError: the disk fails.
            Exception: what `read` raises; what was read until then stays for the next attempt.
        """
        whole = self.folder / name
        part = whole.with_name(f"{whole.name}.{size}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        while not whole.exists():
            with self._begin(part, size) as writer:
                while writer.is_at(part) and not writer.lock(fcntl.LOCK_EX):
                    if stop.wait(_POLL_SECONDS):
                        raise ReadCancelled
                if not writer.is_at(part):  # it was finished or evicted
                    continue
                if whole.exists():  # it was finished before this one began another
                    part.unlink()
                    continue
                try:
                    self._fill(writer, size, read)
                except CacheFull:
                    part.unlink()
                    raise
                with self._locked():  # whoever counts sees it under one name
                    part.rename(whole)

    def _begin(self, part: Path, size: int) -> Descriptor:
        """The file to write, old or new; room for the whole of it is set aside."""
        with self._locked():
            if not part.exists():
                self._evict(sum(entry.size for entry in self._entries()) + size - self.max_bytes)
            return Descriptor(part, os.O_RDWR | os.O_CREAT)

    def _fill(self, writer: Descriptor, size: int, read: Read) -> None:
        offset = os.fstat(writer.number).st_size
        while offset < size:
            data = memoryview(read(offset))
            while data:
                try:
                    written = os.pwrite(writer.number, data, offset)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    with self._locked():
                        self._evict(size - offset)
                    continue
                offset, data = offset + written, data[written:]
        os.fsync(writer.number)

    def _evict(self, size: int) -> None:
        """Make room by the least recently used files, all of it or nothing."""
        with ExitStack() as claims:
            going: list[Path] = []
            for entry in sorted(self._entries()) if size > 0 else ():
                with suppress(FileNotFoundError):
                    file = claims.enter_context(Descriptor(entry.path, os.O_RDWR))
                    if file.lock(fcntl.LOCK_EX) and file.is_at(entry.path):
                        going.append(entry.path)
                        size -= entry.size
                if size <= 0:
                    break
            if size > 0:
                raise CacheFull
            for path in going:
                path.unlink()

    def _entries(self) -> Iterator[_Entry]:
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                part = _PART.fullmatch(path.name)
                yield _Entry(found.st_mtime_ns, path, int(part[1]) if part else found.st_size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process and thread at a time sets room aside or makes some."""
        with Descriptor(self.folder / ".lock", os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file.number, fcntl.LOCK_EX)
            yield
