"""The records of the ranks of this node, which its supervisor reads."""

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress

from launch.local.rank_processes import RankProcess
from trainer.distributed.rank_state import RankState, RecordMemory


class RankRecords:
    """The records of the ranks of one start."""

    def __init__(self) -> None:
        self._memories: dict[int, RecordMemory] = {}

    def add(self, rank: int) -> RecordMemory:
        """Return the memory of a new rank's record, which the rank inherits."""
        self._memories[rank] = RecordMemory()
        return self._memories[rank]

    def read(self) -> dict[int, RankState]:
        """Return what each rank does. Ranks that have not begun are missing."""
        found = {rank: memory.read() for rank, memory in self._memories.items()}
        return {rank: state for rank, state in found.items() if state is not None}

    def request_stacks(self) -> None:
        """Ask all ranks to write their stacks to the run's folder."""
        for memory in self._memories.values():
            memory.request_stacks()

    def print_stacks(self, ranks: Iterable[int], processes: Mapping[int, RankProcess]) -> None:
        """Let those ranks print their stacks that have not heard the request, since a thread holds their
        interpreter."""
        for rank in ranks:
            if rank in self._memories and self._memories[rank].has_request:
                send_signal(processes[rank], signal.SIGUSR1)

    def close(self) -> None:
        """Release the memory."""
        for memory in self._memories.values():
            memory.close()
        self._memories.clear()


def send_signal(process: RankProcess, number: int) -> None:
    """Send a signal to a rank, unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
