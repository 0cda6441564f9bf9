import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.prefetch import Prefetch, finished


def test_items_come_in_order_and_end() -> None:
    prefetch = Prefetch(lambda: iter(range(50)), 3)
    assert list(prefetch) == list(range(50))
    assert prefetch.wait_seconds > 0
    prefetch.close()


def test_no_more_than_depth_items_wait() -> None:
    made: list[int] = []
    started = threading.Event()

    def make() -> Iterator[int]:
        for item in count():
            made.append(item)
            if len(made) > 3:
                started.set()
            yield item

    prefetch = Prefetch(make, 3)
    started.wait(10)
    assert list(islice(prefetch, 5)) == [0, 1, 2, 3, 4]
    prefetch.close()
    assert len(made) <= 5 + 3 + 1, "five taken, three waiting, one in hand"


def test_an_error_is_raised_where_the_item_is_due() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    prefetch = Prefetch(make, 3)
    items = iter(prefetch)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(items)
    prefetch.close()


def test_close_stops_a_full_and_a_waiting_queue() -> None:
    full = Prefetch(lambda: count(), 1)
    full.close()
    full.close()
    release = threading.Event()

    def make() -> Iterator[int]:
        release.wait(10)
        yield 1

    slow = Prefetch(make, 1)
    taken: list[int] = []
    consumer = threading.Thread(target=lambda: taken.extend(slow))
    consumer.start()
    threading.Timer(0.05, release.set).start()
    slow.close()
    consumer.join(10)
    assert not consumer.is_alive()


def test_waiting_ends_where_the_consumer_gives_up() -> None:
    release, gave_up = threading.Event(), threading.Event()

    def make() -> Iterator[int]:
        yield 1
        release.wait(10)
        yield 2

    prefetch = Prefetch(make, 1, end_reads=release.set, give_up=gave_up.is_set)
    threading.Timer(0.05, gave_up.set).start()
    assert list(prefetch) == [1]
    prefetch.close()
    assert release.is_set()


def test_items_that_are_ready_come_before_giving_up() -> None:
    made = threading.Event()

    def make() -> Iterator[int]:
        yield from range(3)
        made.set()

    prefetch = Prefetch(make, 3, give_up=lambda: True)
    assert made.wait(10)
    assert list(prefetch) == [0, 1, 2]
    prefetch.close()


def test_reads_are_ended_before_their_thread_is_waited_for() -> None:
    release = threading.Event()

    def make() -> Iterator[int]:
        assert release.wait(10)
        yield 1

    prefetch = Prefetch(make, 1, end_reads=release.set)
    prefetch.close()
    assert release.is_set()


@given(pieces=st.integers(0, 6), ahead=st.integers(0, 3), fails=st.booleans())
def test_work_is_finished_in_order_once_the_next_has_begun(pieces: int, ahead: int, fails: bool) -> None:
    begun: list[int] = []

    def begin() -> Iterator[Callable[[], tuple[int, int]]]:
        for number in range(pieces):
            begun.append(number)
            yield partial(lambda number: (number, len(begun)), number)
        if fails:
            raise OSError("no more")

    found = []
    with pytest.raises(OSError, match="no more") if fails else nullcontext():
        for item in finished(begin(), ahead):
            found.append(item)
    assert found == [(number, min(number + ahead + 1, pieces)) for number in range(pieces)]
