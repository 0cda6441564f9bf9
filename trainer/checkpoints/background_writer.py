"""Checkpoints that are written while training goes on."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from data_pipelines.errors import UserError
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore


class BackgroundWriter:
    """Writes snapshots in one thread while training goes on. A failed write is a warning, never an exception."""

    def __init__(self, store: CheckpointStore, saved: Callable[[int], None] | None = None) -> None:
        """Open the writer.

        Args:
            store: where the snapshots go.
            saved: called in the writing thread with the step of each checkpoint once it is on the disk.
        """
        self.slowest_seconds = 0.0
        """What the slowest write has taken."""
        self._store, self._saved = store, saved
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._in_flight: Future[None] | None = None
        self._warnings: list[str] = []

    def submit(self, snapshot: Snapshot) -> None:
        """Begin to write a snapshot, whose tensors must not change any more; waits for a write in flight first."""
        self.wait()
        self._in_flight = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Return once nothing is being written."""
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            in_flight.result()

    def warnings(self) -> list[str]:
        """What went wrong since this was last asked, as messages for the user."""
        taken, self._warnings = self._warnings, []
        return taken

    def close(self) -> None:
        """Finish the write in flight and end the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        try:
            self._store.write(snapshot)
            if self._saved is not None:
                self._saved(snapshot.step)
        except (UserError, OSError) as error:
            self._warnings.append(str(error))
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
