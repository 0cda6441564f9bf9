"""How the command tells a user what went wrong: one message, no traceback."""

import errno
import sys

from data_pipelines.errors import UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


def print_error(error: UserError) -> None:
    """Print an error on standard error; in color on a terminal."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    sys.stderr.flush()


def disk_error_message(error: OSError) -> UserError | None:
    """The message for a disk that is full, read-only, forbidden or away; None for other faults, which are ours."""
    if error.errno not in _DISK:
        return None
    return UserError(
        error.strerror or str(error),
        where=error.filename or "a file",
        fix="make room and see that the folder is writable, then give the command again (a run: all4one resume RUN)",
    )
