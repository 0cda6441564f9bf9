import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.shards.cache import Cache, CacheFull, Descriptor, ReadCancelled

GO_ON = Event()


def content(name: str, size: int) -> bytes:
    return (name.encode() * size)[:size]


def source(name: str, size: int, step: int = 1 << 20) -> Callable[[int], bytes]:
    return lambda offset: content(name, size)[offset : offset + step]


def fetch(cache: Cache, name: str, size: int) -> None:
    cache.fetch(name, size, source(name, size), GO_ON)


def names(cache: Cache) -> set[str]:
    return {str(path.relative_to(cache.folder)) for path in cache.folder.glob("*/*")}


def read(file: Descriptor | None, size: int) -> bytes:
    assert file is not None
    return os.pread(file.number, size, 0)


def test_a_file_is_fetched_once_and_whole(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path / "deep" / "cache", 1000), []

    def slow(offset: int) -> bytes:
        asked.append(offset)
        return content("x", 100)[offset : offset + 30]

    assert cache.open("set/a") is None
    cache.fetch("set/a", 100, slow, GO_ON)
    cache.fetch("set/a", 100, slow, GO_ON)
    assert asked == [0, 30, 60, 90]
    assert read(cache.open("set/a"), 200) == content("x", 100)
    assert names(cache) == {"set/a"}


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path, 1000), []

    def broken(offset: int) -> bytes:
        if offset == 60:
            raise ConnectionError
        return source("a", 100, 30)(offset)

    def whole(offset: int) -> bytes:
        asked.append(offset)
        return source("a", 100)(offset)

    with pytest.raises(ConnectionError):
        cache.fetch("set/a", 100, broken, GO_ON)
    assert cache.open("set/a") is None
    cache.fetch("set/a", 100, whole, GO_ON)
    assert asked == [60]
    assert read(cache.open("set/a"), 200) == content("a", 100)


PROGRAM = """
import sys, time
from pathlib import Path
from threading import Event
from data_pipelines.shards.cache import Cache
def read(offset):
    if offset:
        print("half", flush=True)
        time.sleep(60)
    return bytes(50)
Cache(Path(sys.argv[1]), 1000).fetch("set/a", 100, read, Event())
"""


def test_a_killed_process_leaves_its_half_to_the_next(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path, 1000), []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        waiting = Thread(
            target=lambda: cache.fetch("set/a", 100, lambda at: asked.append(at) or bytes(50), GO_ON)
        )
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive(), "the other process still has the lock"
        process.send_signal(signal.SIGKILL)
        waiting.join(10)
    assert asked == [50]
    assert read(cache.open("set/a"), 200) == bytes(100)


def test_many_threads_download_a_file_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def slow(offset: int) -> bytes:
        asked.append(offset)
        GO_ON.wait(0.05)
        return source("a", 100, 50)(offset)

    caches = [Cache(tmp_path, 1000) for _ in range(5)]
    threads = [Thread(target=cache.fetch, args=("set/a", 100, slow, GO_ON)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [0, 50]


def test_whoever_waits_gets_a_file_that_is_kept_at_once(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path, 1000), []
    waiting = Thread(target=fetch, args=(Cache(tmp_path, 1000), "set/a", 100), daemon=True)

    def slow(offset: int) -> bytes:
        waiting.start()
        other.append(Descriptor(tmp_path / "set/a.100.part"))
        GO_ON.wait(0.02)
        return content("set/a", 100)

    cache.fetch("set/a", 100, slow, GO_ON)
    assert cache.keep("set/a", other[0])
    waiting.join(5)
    assert not waiting.is_alive()


def test_waiting_for_another_download_can_be_stopped(tmp_path: Path) -> None:
    cache, stop = Cache(tmp_path, 1000), Event()

    def endless(offset: int) -> bytes:
        stop.set()
        with pytest.raises(ReadCancelled):
            cache.fetch("set/a", 100, endless, stop)
        return content("a", 100)

    cache.fetch("set/a", 100, endless, GO_ON)


def test_the_least_recently_used_goes_first_over_all_sets(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 300)
    for name in ("one/a", "two/b", "one/c"):
        fetch(cache, name, 100)
    cache.open("one/a")
    fetch(cache, "two/d", 150)
    assert names(cache) == {"one/a", "two/d"}


def test_what_is_kept_stays_and_what_is_open_can_be_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 200)
    fetch(cache, "set/a", 100)
    kept = cache.open("set/a")
    assert kept is not None
    assert cache.keep("set/a", kept)
    fetch(cache, "set/b", 100)
    only_open = cache.open("set/b")
    fetch(cache, "set/c", 100)
    assert names(cache) == {"set/a", "set/c"}
    assert read(only_open, 100) == content("set/b", 100)
    assert not cache.keep("set/b", only_open)
    with pytest.raises(CacheFull):
        fetch(cache, "set/d", 150)
    assert names(cache) == {"set/a", "set/c"}, "nothing may go in vain"
    del kept
    fetch(cache, "set/d", 150)
    assert names(cache) == {"set/d"}


def test_downloads_count_with_their_whole_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)

    def meanwhile(offset: int) -> bytes:
        with pytest.raises(CacheFull):
            fetch(cache, "set/b", 100)
        return source("set/a", 200)(offset)

    cache.fetch("set/a", 200, meanwhile, GO_ON)
    fetch(cache, "set/b", 100)
    assert names(cache) == {"set/b"}


def test_an_abandoned_half_goes_as_well(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    with pytest.raises(ZeroDivisionError):
        cache.fetch("set/a", 200, lambda offset: bytes(1 // 0), GO_ON)
    fetch(cache, "set/b", 100)
    assert names(cache) == {"set/b"}


def test_only_the_wrong_file_is_dropped(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    fetch(cache, "set/a", 100)
    wrong = cache.open("set/a")
    assert wrong is not None
    cache.drop("set/a", wrong)
    cache.drop("set/a", wrong)
    fetch(cache, "set/a", 100)
    cache.drop("set/a", wrong)
    assert names(cache) == {"set/a"}


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_full_disk_evicts_and_goes_on(small_disk: Path) -> None:
    cache = Cache(small_disk, 1 << 40)
    for name in ("set/a", "set/b", "set/c"):
        fetch(cache, name, 400_000)
    assert names(cache) == {"set/b", "set/c"}
    assert read(cache.open("set/c"), 400_000) == content("set/c", 400_000)


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_full_disk_with_nothing_to_evict_has_no_room(small_disk: Path) -> None:
    (small_disk / "of others").write_bytes(bytes(700_000))
    cache = Cache(small_disk, 1 << 40)
    with pytest.raises(CacheFull):
        fetch(cache, "set/a", 400_000)
    assert names(cache) == set()


def test_the_cap_holds_while_many_fetch(tmp_path: Path) -> None:
    sizes = [100 + 40 * number for number in range(8)]
    over: list[int] = []

    def work(seed: int) -> None:
        draw, cache = random.Random(seed), Cache(tmp_path, 700)
        for _ in range(60):
            number = draw.randrange(8)
            with suppress(CacheFull):
                fetch(cache, f"set/{number}", sizes[number])
            used = 0
            with cache._locked():
                for path in tmp_path.glob("set/*"):
                    with suppress(FileNotFoundError):  # a download ends without the lock
                        used += path.stat().st_size
            if used > 700:
                over.append(used)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not over


SIZES = {f"set/{letter}": 10 * (number + 1) for number, letter in enumerate("abcdef")}
steps = st.lists(
    st.tuples(st.sampled_from(["use", "keep", "release"]), st.sampled_from(sorted(SIZES))), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, cap=st.integers(5, 150))
def test_the_cap_holds_and_only_the_oldest_go(steps: list[tuple[str, str]], cap: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), cap)
        model: list[str] = []  # the least recently used first
        kept: dict[str, Descriptor] = {}
        for action, name in steps:
            if action == "release":
                kept.pop(name, None)
                continue
            if name not in model:
                free, going = cap - sum(SIZES[n] for n in model), []
                for old in (n for n in model if n not in kept):
                    if free >= SIZES[name]:
                        break
                    going.append(old)
                    free += SIZES[old]
                if free < SIZES[name]:
                    with pytest.raises(CacheFull):
                        fetch(cache, name, SIZES[name])
                    continue
                model = [n for n in model if n not in going] + [name]
                fetch(cache, name, SIZES[name])
            file = cache.open(name)
            assert read(file, 1000) == content(name, SIZES[name])
            model.remove(name)
            model.append(name)
            if action == "keep":
                assert file is not None
                assert cache.keep(name, file)
                kept[name] = file
            del file
            assert names(cache) == set(model)
