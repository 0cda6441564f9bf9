"""Error messages for the user: one message instead of a traceback."""

import errno
import sys

from data_pipelines.errors import UserError
from data_pipelines.formatting import readable
from data_pipelines.log import PRINTED

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


def print_error(error: UserError) -> None:
    """Print an error to standard error, in color on a terminal."""
    from rich.text import Text

    from data_pipelines.console import plain_console

    line = Text.assemble(("error:", "bold red"), f" {readable(str(error))}")
    plain_console(stderr=True).print(line, soft_wrap=True)
    sys.stderr.flush()
    PRINTED.error("error: %s", readable(str(error)))


def print_or_raise(error: UserError | OSError) -> None:
    """Print the message of an error that the user can fix. Any other OSError is raised again."""
    message = error if isinstance(error, UserError) else disk_error_message(error)
    if message is None:
        raise error
    print_error(message)


def disk_error_message(error: OSError) -> UserError | None:
    """Return the message for a disk error: full, read-only, not permitted or unreachable.

    Return None for every other error, because that is a bug and deserves its traceback.
    """
    if error.errno not in _DISK:
        return None
    return UserError(
        error.strerror or str(error),
        where=error.filename or "a file",
        fix="free space and make the folder writable, then run the command again (for a run: all4one resume RUN)",
    )
