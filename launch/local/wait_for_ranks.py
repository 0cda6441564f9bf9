"""Waits until all ranks of one start on this machine have ended, and answers what they say meanwhile."""

import os
import signal
import time
from contextlib import closing

from launch.local.rank_processes import RankProcess
from launch.local.roll_call import RollCall
from launch.local.run_watch import LOOK_SECONDS
from launch.local.supervision import Outcome, Supervision
from launch.local.wakeups import BUSY_SECONDS, Wakeups
from launch.local.watched_ranks import WatchedRanks


def wait_for_ranks(ranks: list[RankProcess], roll: RollCall | None, watched: WatchedRanks | None) -> Outcome:
    """Wait for all ranks, and return how they ended.

    Args:
        ranks: the ranks, in their order.
        roll: connections to them. None: no rank saves after a failure.
        watched: watches their records. None: nobody does.
    """
    seen = Supervision(len(ranks), saves=roll is not None)
    with closing(Wakeups()) as wakeups:
        while not _is_over(seen, ranks, roll, watched):
            if seen.codes:
                time.sleep(BUSY_SECONDS)
            else:
                connections = () if roll is None else roll.connections
                wakeups.wait([process.pid for process in ranks], connections, LOOK_SECONDS)
    return seen.outcome()


def _is_over(
    seen: Supervision, ranks: list[RankProcess], roll: RollCall | None, watched: WatchedRanks | None
) -> bool:
    """Take in what has happened to the ranks, and answer it. Returns whether all have ended."""
    for rank, process in enumerate(ranks):
        if rank not in seen.codes and (code := process.poll()) is not None:
            seen.ended(rank, code, time.monotonic())
    if seen.over:
        return True
    if watched is not None and not seen.codes:
        watched.look(ranks)
    if roll is not None:
        seen.reports.update(roll.read())
        if seen.must_interrupt(time.monotonic()):
            roll.interrupt()
        if (answer := seen.answer(time.monotonic())) is not None:
            roll.answer(answer)
    if not seen.must_end(time.monotonic()):
        return False
    for rank, process in enumerate(ranks):
        if rank not in seen.codes:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    return True
