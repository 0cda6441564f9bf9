"""Namespaces of another machine that this machine plays, entered without a new program (setns(2), as nsenter(1))."""

import ctypes
import os
from collections.abc import Sequence

KINDS = ("mnt", "uts", "ipc", "net", "pid")


def enter(process: int) -> None:
    """Continue in a fork that lives in the namespaces of a process. This process only waits for it and ends with it.

    Raises:
        OSError: the namespaces cannot be entered.
    """
    _set(process, KINDS)
    if inside := os.fork():  # only children live in the new namespace of processes
        _, status = os.waitpid(inside, 0)
        os._exit(max(0, os.waitstatus_to_exitcode(status)) or int(os.WIFSIGNALED(status)))


def enter_network(process: int) -> None:
    """Let this thread open its next sockets in the network of a process.

    Raises:
        OSError: the network cannot be entered.
    """
    _set(process, ("net",))


def _set(process: int, kinds: Sequence[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    places = [os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for place in places:
        if libc.setns(place, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(place)
