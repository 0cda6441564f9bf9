"""Work spread over processes that end with their parent, results in order."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

from data_pipelines.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(work: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int) -> Iterator[Result]:
    """`work` of each task, in the order of the tasks; in this process where one worker is enough.

    Args:
        work: function of a module, with arguments and results that can be pickled.
        tasks: what to work on.
        workers: processes, at most.

    Raises:
        UserError: a worker was killed.
        Exception: what `work` raises, after the tasks not yet begun were dropped.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Forked, since a fresh interpreter would import everything again in each worker.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_end_with_parent
    )
    try:
        for future in [pool.submit(work, task) for task in tasks]:
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for want of memory", fix="try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is gone, even if that was killed; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
