"""Writes every message of this rank into its record."""

import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch.distributed as dist

from trainer.distributed.message_kinds import kind_number
from trainer.distributed.rank_record import RankRecord, own_record
from trainer.distributed.record_layout import OPERATIONS


def record_messages() -> None:
    """Record the messages of this process from now on, if its supervisor reads the record.

    The functions of `torch.distributed` are replaced. This project, DeepSpeed and torch's own modules all call them
    there, so no sender has to know of the record.
    """
    record = own_record()
    if record.is_read:
        for number, name in enumerate(OPERATIONS):
            setattr(dist, name, recorded(getattr(dist, name), number, record))


def recorded(plain: Callable[..., Any], operation: int, record: RankRecord) -> Callable[..., Any]:
    """Return a function of `torch.distributed` that also writes its messages into a record.

    Args:
        plain: the function.
        operation: its place in `OPERATIONS`.
        record: the record of this process.
    """
    clock = time.monotonic_ns

    @wraps(plain)
    def send(*tensors: Any, **options: Any) -> Any:
        word = record.begin_message(kind_number(sys._getframe(1)), operation)
        began = clock()
        try:
            work = plain(*tensors, **options)
        finally:
            record.end_message(clock() - began)
        return work if work is None else _RecordedWork(work, word, record)

    return send


class _RecordedWork:
    """A pending work handle whose wait is recorded."""

    def __init__(self, work: Any, word: int, record: RankRecord) -> None:
        self._work, self._word, self._record = work, word, record

    def wait(self, *limits: Any) -> Any:
        """Wait as the work itself does."""
        self._record.wait_for(self._word)
        began = time.monotonic_ns()
        try:
            return self._work.wait(*limits)
        finally:
            self._record.end_message(time.monotonic_ns() - began)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
