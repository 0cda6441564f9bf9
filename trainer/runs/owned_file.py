"""A file that only the process which holds its run may write."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from data_pipelines.files import replacing
from data_pipelines.prefetch import nothing


class OwnedFile:
    """A file that is made whole and then grows.

    A process that stood still may wake up after another one has taken over the run. It may wake up between any two of
    its calls, so a look at the lock before a write is not enough. Two rules keep the file whole:

    - `append` opens the file first, then looks at the lock, and writes then. If the run is taken over after that look,
      the new holder replaces the file, and these bytes go into the old one.
    - `append` writes only if the file is as long as this object has left it. Otherwise the caller replaces it.

    Args:
        path: the file.
        require_lock: raises a UserError if another process has taken over the run.
    """

    def __init__(self, path: Path, require_lock: Callable[[], None] = nothing) -> None:
        self.path, self._require_lock = path, require_lock
        self._size = -1

    def replace(self, content: bytes) -> None:
        """Replace the file atomically.

        Raises:
            OSError: the file cannot be replaced.
            UserError: another process has taken over the run.
        """
        with replacing(self.path, several=True) as temporary:
            temporary.write_bytes(content)
            self._require_lock()
        self._size = len(content)

    def append(self, content: bytes) -> bool:
        """Append to the file. Returns False, and appends nothing, if another program has changed or removed the file.

        If the disk refuses a part of the content, the file stays as it was.

        Raises:
            OSError: the content cannot be written.
            UserError: another process has taken over the run.
        """
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.fstat(file).st_size != self._size:
                return False
            self._require_lock()
            try:
                written = 0
                while written < len(content):
                    written += os.write(file, content[written:])
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, self._size)  # what follows would be lost in a torn line
                raise
            self._size += written
        finally:
            os.close(file)
        return True
