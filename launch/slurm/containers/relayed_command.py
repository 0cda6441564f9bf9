"""SLURM's commands inside of a container: they run outside of it, through the relay of the node.

An image has no SLURM, and one that had it would need the cluster's version, its configuration and munge's socket. So
`use_relay` puts a folder with stand-ins of the commands first into PATH. Each of them asks the relay.
"""

import json
import os
import shlex
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

from data_pipelines.log import LOGGER

COMMANDS = ("scontrol", "scancel", "squeue", "sacct", "sinfo")
"""The commands that a relay runs."""
QUEUED_BY = "ALL4ONE_QUEUED_BY"
"""Environment variable with the version that has queued the job. Only jobs in containers have it."""
_WAIT_SECONDS = 15.0
"""How long a process waits for the relay, which starts at the same time."""


def address() -> str:
    """Return the name of the relay's socket: an abstract one, which containers share with their node."""
    job, node = os.environ["SLURM_JOB_ID"], os.environ.get("SLURMD_NODENAME", "")
    return f"\0all4one.{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}.{node}"


def use_relay(folder: Path) -> socket.socket | None:
    """Let this process and its children reach SLURM's commands, if it runs inside of a container.

    Args:
        folder: folder of the stand-ins, inside of the run's folder.

    Returns a connection. The relay ends when all processes of its node have closed theirs. None: this is no container,
    or the relay does not answer, which is logged.
    """
    queued_by = os.environ.get(QUEUED_BY)
    if queued_by is None:
        return None
    if queued_by != (ours := version("all4one")):
        LOGGER.warning(
            "the image holds all4one %s, and version %s has queued this job. Build the image again if a setting is "
            "unknown or missing",
            ours,
            queued_by,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        words = [sys.executable, "-P", "-m", __name__, name]
        part = folder / f"{name}.{os.getpid()}.part"
        part.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        part.chmod(0o755)
        part.replace(folder / name)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    try:
        return connect()
    except OSError as error:
        LOGGER.warning(
            "SLURM cannot be asked from this container, because its relay does not answer: %s", error
        )
        return None


def connect() -> socket.socket:
    """Return a connection to the relay of this node.

    Raises:
        OSError: the relay has not answered in time.
    """
    last = time.monotonic() + _WAIT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address())
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > last:
                raise
        time.sleep(0.1)


def main() -> int:
    """Run the command `sys.argv[1:]` through the relay, and print what it prints. Returns its exit code."""
    try:
        with connect() as connection, connection.makefile("rw") as lines:
            lines.write(json.dumps(sys.argv[1:]) + "\n")
            lines.flush()
            answer = json.loads(lines.readline() or "null")
    except (OSError, ValueError) as error:
        answer, why = None, str(error)
    else:
        why = "it has ended"
    if answer is None:
        # in the words of SLURM, so that callers try again
        print(
            f"Unable to contact slurm controller: the relay of this node does not answer: {why}",
            file=sys.stderr,
        )
        return 1
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["err"])
    return int(answer["code"])


if __name__ == "__main__":
    sys.exit(main())
