"""The last words of a rank that failed: the error in its output."""

import re
from pathlib import Path

from trainer.runs.end_reasons import ExitCode

TAIL_LINES = 25
TAIL_BYTES = 65_536
"""Bytes at the end of a log in which the last lines are searched."""
_ERROR = re.compile(r"error: ")
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit)\b")


def last_lines(log: Path, count: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a rank's output. Empty: there are none, or they cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def last_words(lines: list[str], code: int) -> str:
    """Return the line that tells why a rank has failed. Empty: there is none.

    Args:
        lines: the last lines of its output.
        code: its exit code. After an error that the user can fix, the message of that error counts, and otherwise the
            name and message of an exception. Libraries print advice and warnings after it. Without such a line, the
            last one counts.
    """
    spoken = [line.strip() for line in lines if line.strip()]
    wanted = _ERROR if code == ExitCode.USER_ERROR else _EXCEPTION
    return ([line for line in spoken if wanted.match(line)] or spoken or [""])[-1]
