"""The ranks of one start on this machine, with the watch of their records."""

import os
import signal
import time

from launch.local.rank_processes import RankProcess
from launch.local.rank_records import RankRecords, send_signal
from launch.local.run_watch import Order, RunWatch


def nodes_here(nproc: int) -> dict[int, str]:
    """Return the name of the node of each rank, if all ranks are on this machine."""
    return dict.fromkeys(range(nproc), os.uname().nodename)


class WatchedRanks:
    """Looks at the records of ranks, and does what their watch orders.

    Args:
        watch: decides what to do.
        records: the records of the ranks.
    """

    def __init__(self, watch: RunWatch, records: RankRecords) -> None:
        self._watch, self._records = watch, records

    def message(self) -> str | None:
        """Return the message on the hang whose ranks were ended. None: there was none."""
        return self._watch.message()

    def look(self, ranks: list[RankProcess]) -> None:
        """Look at the records if it is time."""
        order = self._watch.look(self._records.read, time.monotonic())
        if order is Order.WRITE_STACKS:
            self._records.request_stacks()
        elif order is Order.PRINT_STACKS:
            self._records.print_stacks(self._watch.hung_ranks, dict(enumerate(ranks)))
        elif order is Order.END:
            for rank in self._watch.hung_ranks:
                send_signal(ranks[rank], signal.SIGKILL)

    def close(self) -> None:
        """Write down what the records have told, and release their memory."""
        self._watch.finish()
        self._records.close()
