"""The lock of a run from the point of view of a rank whose supervisor holds it.

The supervisor outlives its ranks. Whichever rank is lost, the lock stays held, and every other rank may write.
"""

import os
from pathlib import Path

from trainer.runs.lock_holder import lock_file, lock_numbers
from trainer.runs.run_lock import RunLock, taken_over

NUMBER = "ALL4ONE_LOCK"
"""Environment variable with the number of the supervisor's lock."""


class PassedLock:
    """Tells whether the supervisor still holds the run.

    Args:
        folder: the run folder.
        number: number of the supervisor's lock.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number

    @property
    def lost(self) -> bool:
        """Whether another process has taken over the run. This process must then write nothing more into it."""
        try:
            lock_file(self._folder, self._number).stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False  # the file system is not available: a takeover shows when it is back
        return max(lock_numbers(self._folder), default=0) > self._number

    def require(self) -> None:
        """Raise a UserError if the lock is lost."""
        if self.lost:
            raise taken_over(self._folder)


def passed_lock(folder: Path) -> PassedLock | None:
    """Return the lock that the supervisor of this process holds. None: there is no such lock."""
    number = os.environ.get(NUMBER)
    return None if number is None else PassedLock(folder, int(number))


def pass_on(lock: RunLock) -> dict[str, str]:
    """Return the environment variable that passes a held lock on to the ranks."""
    return {NUMBER: str(lock.number)}
