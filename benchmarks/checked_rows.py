"""Rows of a table, each made by a process of its own with a time limit. A row that fails does not end the others."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LAST_MOMENTS = 30.0
"""Seconds in which a killed process should be gone. One that stands in the kernel, as on a hung disk, is not."""

LONGEST = 300
"""Characters of an error that a row shows."""


@dataclass(frozen=True)
class Row:
    """What a row checks, and how."""

    name: str
    command: Sequence[str]
    seconds: float
    """Time limit of the command with all its processes."""
    figure: Callable[[str], str]
    """Returns the result for people from the output of the command. It raises an error if there is none."""


@dataclass(frozen=True)
class Outcome:
    """How a row ended."""

    name: str
    passed: bool
    words: str
    """Its figure, or the reason why it failed."""
    seconds: float

    def as_markdown(self) -> str:
        """Return the line of the table."""
        cell = self.words.replace("|", "\\|").replace("\n", " ")
        return f"| {self.name} | {cell if self.passed else f'**failed**: {cell}'} | {self.seconds:.0f} s |"


def run_row(row: Row, folder: Path, environment: Mapping[str, str]) -> Outcome:
    """Run the command of a row and read its figure. Its output goes into a file of the folder."""
    began = time.monotonic()
    log = folder / f"{row.name.replace(' ', '_')}.log"

    def ended(passed: bool, words: str) -> Outcome:
        return Outcome(row.name, passed, words, time.monotonic() - began)

    with log.open("wb") as output:
        process = subprocess.Popen(
            row.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,  # so that its ranks can be killed with it
        )
        try:
            code: int | None = process.wait(row.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    said = log.read_text(errors="replace")
    if code is None:
        return ended(False, f"no end within {row.seconds:.0f} s")
    if code:
        return ended(False, f"code {code}: {_last_words(said)}")
    try:
        return ended(True, row.figure(said))
    except Exception as error:  # whatever is wrong with a result, the other rows go on
        return ended(False, f"{type(error).__name__}: {error}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a command and its children, and wait until they are gone.

    The kernel ends a killed process a moment later, and takes its GPU memory back only then. The next row may need it.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + LAST_MOMENTS
    while _group_runs(process.pid) and time.monotonic() < until:
        time.sleep(0.05)


def _group_runs(group: int) -> bool:
    """Return whether a process of a group runs. A zombie that nobody has waited for holds nothing any more."""
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _last_words(said: str) -> str:
    """Return the end of an output: from the last message for users, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    marked = [place for place, line in enumerate(lines) if line.startswith("error:")]
    words = " ".join(lines[marked[-1] if marked else -1 :])
    return words if len(words) <= LONGEST else f"…{words[-LONGEST:]}"
