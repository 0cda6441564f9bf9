"""What a rank does, as its supervisor reads it from the rank's record. Loads no torch.

The supervisor, which starts the rank, makes the memory of the record, and the rank inherits it. Nothing is sent, so a
rank that is stopped, or whose interpreter is held, can still be read.
"""

import mmap
import os
import struct
import sys
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from trainer.distributed.message_kinds import KINDS
from trainer.distributed.record_layout import (
    BEAT_WORD,
    BLOCK,
    CHECKSUM,
    COPY_BYTES,
    COPY_STRIDE,
    DEPARTS_BIT,
    FIRST_COPY,
    KIND_BITS,
    KIND_SHIFT,
    LATE_WORD,
    MESSAGE_WORD,
    NUM_WORDS,
    NUMBER_SHIFT,
    OPERATION_BITS,
    OPERATION_SHIFT,
    OPERATIONS,
    RECORD,
    REQUEST_WORD,
    RETRIES_WORD,
    SIZE,
    WAITS_BIT,
    Phase,
)


@dataclass(frozen=True, order=True)
class Message:
    """The newest message of a rank, or the one that it waits for."""

    number: int
    """Number of the message since the rank has begun, from 1. 0: there was none."""
    kind: str
    """Its content."""
    operation: str
    """Name of the function in `torch.distributed`."""
    waits: bool
    """Whether the rank is in the message now."""
    departs: bool
    """Whether the step before sent another message at this place."""

    def __str__(self) -> str:
        return f"message {self.number} ({self.kind}, {self.operation})"


@dataclass(frozen=True)
class RankState:
    """What a rank did when it was read. All times are durations in seconds, so nodes may compare them."""

    step: int
    """Number of steps that are done."""
    phase: Phase
    phase_seconds: float
    """How long the phase had lasted."""
    seconds: tuple[float, ...]
    """Time of each phase so far without messages, by the number of the phase. The running phase is not in it."""
    message_seconds: float
    """Time in messages in the phases that are over."""
    compute_seconds: float
    """Time in which the rank has computed by itself up to the last finished step: without messages, waits for data,
    records, evaluations and saves."""
    message: Message
    silent_seconds: float
    """Time since a thread of the rank has last shown that the process runs."""
    late_seconds: float
    """How long that thread, which sleeps otherwise, has waited for a core, or how long control groups have throttled
    the process."""
    retries: int
    """Number of reads from a remote store that have failed and are tried again."""

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "RankState":
        """Return the state that `as_json` was called for."""
        parts = {"phase": Phase(found["phase"]), "seconds": tuple(found["seconds"])}
        return cls(**found | parts | {"message": Message(**found["message"])})


class RecordMemory:
    """The supervisor's view of the record of a rank, which does not exist yet."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._file: int = os.memfd_create("rank record")
        else:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        os.truncate(self._file, SIZE)
        self._map = mmap.mmap(self._file, SIZE)
        self._words = memoryview(self._map).cast("q")

    def fileno(self) -> int:
        """Return the file descriptor, which the rank has to inherit."""
        return self._file

    @property
    def environment(self) -> dict[str, str]:
        """The variable with which the rank finds its record."""
        return {RECORD: str(self._file)}

    def read(self) -> RankState | None:
        """Return what the rank does. None: it has written nothing yet."""
        return read_state(self._map[:], time.monotonic_ns())

    def request_stacks(self) -> None:
        """Ask the rank to write its stacks to the run's folder."""
        self._words[REQUEST_WORD] = 1

    @property
    def has_request(self) -> bool:
        """Whether the rank has not heard the request yet."""
        return bool(self._words[REQUEST_WORD])

    def close(self) -> None:
        """Release the memory, which lives on while the rank runs."""
        self._words.release()
        self._map.close()
        os.close(self._file)


def read_state(memory: bytes, now: int) -> RankState | None:
    """Return what the bytes of a record say. None: they hold no whole block.

    Args:
        memory: the bytes.
        now: when they were read, by the clock `time.monotonic_ns`.
    """
    copies = [memory[at : at + COPY_BYTES] for at in (FIRST_COPY, FIRST_COPY + COPY_STRIDE)]
    whole = [
        BLOCK.unpack_from(copy)
        for copy in copies
        if zlib.crc32(copy[: BLOCK.size]) == CHECKSUM.unpack_from(copy, BLOCK.size)[0]
    ]
    newest = max(whole, default=(0,))
    if not newest[0]:  # a block of zeros has the number 0
        return None
    _, step, phase, since, *spent, messages, computed = newest
    words = struct.unpack_from(f"<{NUM_WORDS}q", memory)
    return RankState(
        step=step,
        phase=Phase(phase),
        phase_seconds=(now - since) / 1e9,
        seconds=tuple(one / 1e9 for one in spent),
        message_seconds=messages / 1e9,
        compute_seconds=computed / 1e9,
        message=_message(words[MESSAGE_WORD]),
        silent_seconds=(now - words[BEAT_WORD]) / 1e9,
        late_seconds=words[LATE_WORD] / 1e9,
        retries=words[RETRIES_WORD],
    )


def _message(word: int) -> Message:
    return Message(
        number=word >> NUMBER_SHIFT,
        kind=KINDS[word >> KIND_SHIFT & (1 << KIND_BITS) - 1],
        operation=OPERATIONS[word >> OPERATION_SHIFT & (1 << OPERATION_BITS) - 1],
        waits=bool(word & WAITS_BIT),
        departs=bool(word & DEPARTS_BIT),
    )
