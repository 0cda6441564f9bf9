"""The output of the first rank of a run on this machine, kept in the run's folder beside that of the other ranks."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from data_pipelines.log import LOGGER, PRINTED, LogFormat

_MOST_BYTES = 5_000_000
"""Size at which the file begins anew. One earlier file is kept as `NAME.1`."""


class _KeptFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore an error. A full disk must not disturb the training, which prints its own warning."""


class _LineFormat(LogFormat):
    def format(self, record: logging.LogRecord) -> str:
        """Return a printed line as it is, and a line of the log in its own form."""
        return record.getMessage() if record.name == PRINTED.name else super().format(record)


@contextmanager
def keep_output(path: Path) -> Iterator[None]:
    """Write all lines that this process prints through the progress display, the log and error messages to a file too.

    The first rank prints to the user's terminal, so its output would otherwise be lost with the terminal. Bars are left
    out, and lines of progress are written instead.

    What C libraries and other packages write by themselves goes to the terminal only. To keep it, a pipe would have to
    take the place of the terminal, and the last words of a library that aborts the process would be lost in it. With
    `all4one train … > FILE 2>&1`, the file has everything.

    Args:
        path: the file. Its folder exists.
    """
    handler = _KeptFile(path, maxBytes=_MOST_BYTES, backupCount=1, delay=True)
    handler.setFormatter(_LineFormat())
    for logger in (PRINTED, LOGGER):
        logger.addHandler(handler)
    try:
        yield
    except Exception:
        PRINTED.info(traceback.format_exc().rstrip())
        raise
    finally:
        for logger in (PRINTED, LOGGER):
            logger.removeHandler(handler)
        handler.close()
