"""The relay of a node: runs SLURM's commands, outside of the container, for the processes inside of it.

It ignores the signals that are meant for the processes, which need it to ask SLURM for the reason of a signal or for a
requeue. It ends with the last of them.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from launch.slurm.containers.relayed_command import COMMANDS, address

_COMMAND_SECONDS = 120.0
"""How long a command may take. Those who ask give up earlier."""
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM)
"""Signals for the processes. The commands inherit this, so that a requeue does not end `scontrol` itself."""
_STOP = signal.SIGUSR1
"""Signal of the job's script after the processes have ended."""
_LOOK_SECONDS = 0.2


class Relay:
    """Answers the processes of one node.

    Args:
        name: address of the socket.
    """

    def __init__(self, name: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(name)
        self._listener.listen()
        self._open, self._lock = 0, threading.Lock()
        self._is_over = False

    def run(self) -> None:
        """Answer until all connections have been closed again, or until `stop`."""
        threading.Thread(target=self._accept, daemon=True).start()
        while not self._is_over:
            time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """End the relay."""
        self._is_over = True

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if _user_of(connection) != os.getuid():  # abstract sockets have no permissions
                connection.close()
                continue
            with self._lock:
                self._open += 1
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Run the commands of one connection until it is closed."""
        try:
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    lines.write(json.dumps(run_command(json.loads(line))) + "\n")
                    lines.flush()
        except OSError:
            pass  # whoever asked has ended
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self.stop()


def run_command(words: list[str]) -> dict[str, str | int]:
    """Run one of SLURM's commands. Returns its exit `code`, its output `out` and its error output `err`."""
    if not words or words[0] not in COMMANDS:
        return {"code": 2, "out": "", "err": f"a relay runs {', '.join(COMMANDS)}, and nothing else\n"}
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"code": 1, "out": "", "err": f"{error}\n"}
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def _user_of(connection: socket.socket) -> int:
    """Return the number of the user whose process has connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def main() -> int:
    """Run the relay of this node, which SLURM starts as a task of its own."""
    relay = Relay(address())
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(_STOP, lambda *_: relay.stop())
    relay.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
