"""What an attempt records about its time: its first step, its evaluations, and how long steps waited for saves.

Loads no torch.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trainer.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from trainer.runs.components import AttemptContext

STEPPED = "stepped"
"""Ledger event: the attempt has finished its first step."""
EVALUATED = "evaluated"
"""Ledger event: an evaluation during training is over."""


class AttemptTimes:
    """Records in the ledger where the time of an attempt goes. Every rank has one, and rank 0 records."""

    def __init__(self, attempt: "AttemptContext") -> None:
        self._attempt, self._has_stepped = attempt, False
        self.saving = 0.0
        """Seconds that steps have waited for copies of the state, and for the last write."""

    def stepped(self, step: int) -> None:
        """Record the first finished step. Later calls do nothing."""
        if not self._has_stepped:
            self._has_stepped = True
            self._note(STEPPED, step)

    @contextmanager
    def evaluation(self, step: int) -> Iterator[None]:
        """Record how long the block takes, also if a signal cuts it short."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - began, 3)
            self._note(EVALUATED, step, seconds=seconds, saving=round(self.saving, 3))

    @contextmanager
    def save(self) -> Iterator[None]:
        """Add the time of the block to `saving`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.saving += time.monotonic() - began

    def _note(self, event: str, step: int, **facts: float) -> None:
        if self._attempt.process.is_first:
            self._attempt.run.note(event, attempt=self._attempt.number, step=step, **facts)


def last_recorded(run: RunFolder) -> float | None:
    """Return when the newest record of a run's metrics was written, in seconds since 1970. None: there is none.

    Until the next attempt opens the metrics, this is the last sign of a step of the attempts before it.
    """
    try:
        return round(run.metrics.stat().st_mtime, 3)
    except OSError:
        return None
