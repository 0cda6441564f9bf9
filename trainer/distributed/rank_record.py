"""The record of a rank: what this process does, in memory that its supervisor reads even while the rank is stuck.

Loads no torch.
"""

import mmap
import os
import time
import zlib
from functools import cache

from trainer.distributed.record_layout import (
    BEAT_WORD,
    BLOCK,
    CHECKSUM,
    COMPUTE,
    COPY_BYTES,
    COPY_STRIDE,
    DEPARTS_BIT,
    FIRST_COPY,
    KIND_SHIFT,
    LATE_WORD,
    MESSAGE_WORD,
    NUMBER_SHIFT,
    OPERATION_SHIFT,
    RECORD,
    REQUEST_WORD,
    RETRIES_WORD,
    SIZE,
    WAITS_BIT,
    Phase,
)


class RankRecord:
    """The rank's own view of its record.

    Args:
        memory: the record's memory. None: nobody reads the record.
    """

    def __init__(self, memory: mmap.mmap | None) -> None:
        self.is_read = memory is not None
        """Whether a supervisor reads the record."""
        self._map: mmap.mmap | bytearray = bytearray(SIZE) if memory is None else memory
        self._words = memoryview(self._map).cast("q")
        self._copies, self._step, self._phase = 0, 0, Phase.START
        self._since = time.monotonic_ns()
        self._spent, self._messages, self._of_phase = [0] * len(Phase), 0, 0
        self._computed = 0
        self._number, self._word = 0, 0
        self._usual, self._sent = list[int](), list[int]()
        if self.is_read:
            self.beat(0, 0.0)
            self._write()

    def enter(self, phase: Phase) -> None:
        """Begin a phase. The one before ends."""
        if not self.is_read or phase == self._phase:
            return
        self._end_phase()
        self._phase = phase
        self._write()

    def finish_step(self, step: int) -> None:
        """Set the number of steps that are done."""
        if self.is_read:
            self._end_phase()
            self._step, self._computed = step, sum(self._spent[phase] for phase in COMPUTE)
            self._usual, self._sent = self._sent, []
            self._write()

    def begin_message(self, kind: int, operation: int) -> int:
        """Begin a message, and return the word that names it for `wait_for`.

        Args:
            kind: place of its content in `KINDS`.
            operation: place of its function in `OPERATIONS`.
        """
        code = kind << KIND_SHIFT | operation << OPERATION_SHIFT
        place, usual = len(self._sent), self._usual
        self._sent.append(code)
        departs = DEPARTS_BIT if usual and (place >= len(usual) or usual[place] != code) else 0
        self._number += 1
        self._word = word = self._number << NUMBER_SHIFT | code | departs
        self._words[MESSAGE_WORD] = word | WAITS_BIT
        return word

    def wait_for(self, word: int) -> None:
        """Begin to wait for a message that has begun before."""
        self._words[MESSAGE_WORD] = word | WAITS_BIT

    def end_message(self, nanoseconds: int) -> None:
        """End the message, or the wait for one, that took this long."""
        self._of_phase += nanoseconds
        self._words[MESSAGE_WORD] = self._word

    def beat(self, retries: int, late: float) -> None:
        """Show that this process runs.

        Args:
            retries: number of reads from a remote store that have failed and are tried again.
            late: seconds by which this comes too late.
        """
        self._words[RETRIES_WORD] = retries
        self._words[LATE_WORD] += int(1e9 * late)
        self._words[BEAT_WORD] = time.monotonic_ns()

    def takes_request(self) -> bool:
        """Return whether the supervisor has asked for the stacks since the last call."""
        asked = bool(self._words[REQUEST_WORD])
        if asked:
            self._words[REQUEST_WORD] = 0
        return asked

    def _end_phase(self) -> None:
        now = time.monotonic_ns()
        self._spent[self._phase] += now - self._since - self._of_phase
        self._messages += self._of_phase
        self._of_phase, self._since = 0, now

    def _write(self) -> None:
        self._copies += 1
        block = BLOCK.pack(
            self._copies, self._step, self._phase, self._since, *self._spent, self._messages, self._computed
        )
        at = FIRST_COPY + self._copies % 2 * COPY_STRIDE
        self._map[at : at + COPY_BYTES] = block + CHECKSUM.pack(zlib.crc32(block))


def own_record() -> RankRecord:
    """Return the record of this process."""
    return _opened(os.environ.get(RECORD))


@cache
def _opened(number: str | None) -> RankRecord:
    return RankRecord(None if number is None else mmap.mmap(int(number), SIZE))
