"""A cache folder of downloaded files that several processes share, with a size limit.

A complete file has its final name. Before that it is `NAME.SIZE.part`, locked by the process that writes it. If that
process is killed, the next download resumes its file. To make room, the least recently used files are removed first,
except files that are locked. A process that is about to read a file holds a shared lock on it. The kernel releases the
locks of a process that dies.
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
"""A function that returns bytes of a file from an offset on: at least one byte, and none past the end."""

_PART = re.compile(r".+\.(\d+)\.part")
_POLL_SECONDS = 0.05


class CacheFull(Exception):
    """A file does not fit under the size limit or on the disk, although everything removable was removed."""


class ReadCancelled(Exception):
    """The reader of a file was asked to end. The file itself is fine."""


class Descriptor:
    """An open file. It is closed, and loses its locks, when `close` is called or the last user drops it."""

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
        """Close the file even if others use it. Idempotent."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def touch(self) -> None:
        """Mark the file as most recently used."""
        now = time.time_ns()
        os.utime(self.number, ns=(now, now))

    def lock(self, how: int) -> bool:
        """Try to get a lock, `fcntl.LOCK_EX` (exclusive) or `fcntl.LOCK_SH` (shared)."""
        try:
            fcntl.flock(self.number, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: Path) -> bool:
        """Return whether the file still has this name. It may have been renamed, removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self.number), path.stat())
        except FileNotFoundError:
            return False


class _Entry(NamedTuple):
    used: int
    """Time of last use in nanoseconds."""
    path: Path
    size: int
    """Size in bytes. For a file that is being downloaded, its final size."""


class Cache:
    """Files by name, `DATASET/FILE`.

    Args:
        folder: folder of the cache, on a local disk.
        max_bytes: maximum size of all files, including those being downloaded.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def open(self, name: str) -> Descriptor | None:
        """Open a file and mark it as most recently used. Return None if it is not in the cache."""
        try:
            found = Descriptor(self.folder / name)
        except FileNotFoundError:
            return None
        found.touch()
        return found

    def keep(self, name: str, found: Descriptor) -> bool:
        """Protect an open file from eviction while the descriptor lives. Return False if it was already removed."""
        return found.lock(fcntl.LOCK_SH) and found.is_at(self.folder / name)

    def drop(self, name: str, wrong: Descriptor) -> None:
        """Remove a file with wrong bytes, unless another file has replaced it."""
        path = self.folder / name
        if wrong.is_at(path):
            path.unlink(missing_ok=True)

    def fetch(self, name: str, size: int, read: Read, stop: Event) -> None:
        """Download a file, or wait until another process has. It may be evicted right after.

        Raises:
            CacheFull: there is no room for it.
            ReadCancelled: `stop` was set.
            OSError: the disk fails.
            Exception: an exception of `read`. The bytes read so far stay for the next attempt.
        """
        whole = self.folder / name
        part = whole.with_name(f"{whole.name}.{size}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        while not whole.exists():
            with self._begin(part, size) as writer:
                while writer.is_at(part) and not writer.lock(fcntl.LOCK_EX):
                    if stop.wait(_POLL_SECONDS):
                        raise ReadCancelled
                if not writer.is_at(part):  # the file was finished or evicted
                    continue
                if whole.exists():  # another process finished it before this one started
                    part.unlink()
                    continue
                try:
                    self._fill(writer, size, read)
                except CacheFull:
                    part.unlink()
                    raise
                with self._locked():  # so that it is counted under only one name
                    part.rename(whole)

    def _begin(self, part: Path, size: int) -> Descriptor:
        """Open the new or existing file to write, and reserve room for all of it."""
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
        """Remove the least recently used files until there is room. If that is impossible, remove nothing."""
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
        """Let only one process and thread at a time reserve or make room."""
        with Descriptor(self.folder / ".lock", os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file.number, fcntl.LOCK_EX)
            yield
