"""Prefetching of items in one background thread."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
_POLL_SECONDS = 0.1
_CLOSE_SECONDS = (
    10.0  # limit of the wait for the thread; a thread in a read that cannot be ended is abandoned
)


def never() -> bool:
    """Return False. Used for waits that nothing interrupts."""
    return False


def nothing() -> None:
    """Do nothing. Used for makers whose reads end on their own."""


def finished(begun: Iterator[Callable[[], Item]], ahead: int) -> Iterator[Item]:
    """Finish pieces of work in their order, each once the next ones have begun.

    If a piece cannot begin, the pieces before it are finished before its error is raised.

    Args:
        begun: begins a piece of work when it is asked for the next item, which is a function that finishes the piece.
        ahead: number of pieces that have begun beside the one that is finished.
    """
    waiting: deque[Callable[[], Item]] = deque()
    error: BaseException | None = None
    while error is None:
        try:
            waiting.append(next(begun))
        except BaseException as found:
            error = found
        while waiting and (error is not None or len(waiting) > ahead):
            yield waiting.popleft()()
    if not isinstance(error, StopIteration):
        raise error


class _End:
    """Marks the end of the items, or an error raised while the next item was made."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[Item]):
    """Iterates over items that a background thread makes ahead.

    An exception in the thread is raised when its item is due.

    Args:
        make: runs in the thread and returns the iterator of items.
        depth: maximum number of ready items.
        end_reads: makes the reads of `make` end soon. It is called before the thread is joined.
        give_up: polled while waiting for an item. If it returns true, iteration ends.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[Item]],
        depth: int,
        *,
        end_reads: Callable[[], None] = nothing,
        give_up: Callable[[], bool] = never,
    ) -> None:
        self.wait_seconds = 0.0
        """Total time that the consumer has waited."""
        self._ready: Queue[Item | _End] = Queue(depth)
        self._stop, self._end_reads, self._give_up = Event(), end_reads, give_up
        self._thread = Thread(target=self._work, args=(make,), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while not self._stop.is_set():
            began = time.perf_counter()
            item = self._take()
            self.wait_seconds += time.perf_counter() - began
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        """Stop the thread and wait for it. Idempotent."""
        self._stop.set()
        self._end_reads()
        self._thread.join(_CLOSE_SECONDS)

    def _take(self) -> Item | _End:
        while not self._stop.is_set():
            try:
                return self._ready.get(timeout=_POLL_SECONDS)
            except Empty:
                if self._give_up():
                    break
        return _End(None)

    def _work(self, make: Callable[[], Iterator[Item]]) -> None:
        try:
            for item in make():
                if not self._offer(item):
                    return
            self._offer(_End(None))
        except BaseException as error:
            self._offer(_End(error))

    def _offer(self, item: Item | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
                return True
            except Full:
                continue
        return False
