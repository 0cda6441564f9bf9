"""Work distributed over processes that end with their parent, with ordered results."""

import gc
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
    """Yield `work(task)` for each task, in order. A single worker runs in this process.

    Args:
        work: a module-level function with arguments and results that can be pickled.
        tasks: the tasks.
        workers: maximum number of processes.

    Raises:
        UserError: a worker was killed.
        Exception: an exception of `work`. Tasks that have not started are dropped.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Workers are forked, because spawned workers would import everything again.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_end_with_parent
    )
    try:
        for future in [pool.submit(work, task) for task in tasks]:
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out",
            fix="try again with fewer --workers",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent ends, even if the parent is killed. Ctrl-C is left to the parent."""
    # A garbage collection writes to every object that the parent has made, and so copies all of its memory.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
