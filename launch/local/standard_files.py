"""Standard input, output and errors of a process, as file descriptors 0 to 2, which C libraries use too."""

import os
from pathlib import Path


def open_standard_files() -> None:
    """Open those of the files 0 to 2 that are closed, as in some service managers.

    A socket would otherwise get such a number, and a rank would take it for its standard input or output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def open_log(log: Path) -> int:
    """Open a file to append output to it, and create it with its folder. The umask decides who may read it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def write_output_to(file: int) -> None:
    """Redirect this process's standard output and errors to an open file, and close its descriptor."""
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def read_nothing() -> None:
    """Give this process an empty standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
