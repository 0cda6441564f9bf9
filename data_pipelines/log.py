"""Log lines of processes with time, level and rank, separate from the output of their command."""

import logging
import os
import sys

from data_pipelines.masking import masked

LOGGER = logging.getLogger("all4one")
PRINTED = logging.getLogger("all4one.printed")
"""Takes a copy of each line that a process prints for its user. It goes nowhere unless a handler keeps it."""
_FORMAT = "%(asctime)s %(levelname)s%(rank)s %(message)s"


class LogFormat(logging.Formatter):
    """Formats a record with its time and level, and with the rank if the process is a rank."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")
        record.rank = f" rank {rank}:" if rank is not None else ":"
        return masked(super().format(record))


class _StandardError(logging.StreamHandler):
    """Writes to the current standard error. A job's process redirects it after it has started."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def _handler() -> logging.Handler:
    handler = _StandardError()
    handler.setFormatter(LogFormat())
    return handler


if not LOGGER.handlers:
    LOGGER.addHandler(_handler())
    LOGGER.setLevel(os.environ.get("ALL4ONE_LOG_LEVEL", "INFO").upper())
    LOGGER.propagate = False
    PRINTED.addHandler(logging.NullHandler())
    PRINTED.setLevel(logging.INFO)
    PRINTED.propagate = False
