"""What a rank writes into its record, and what its supervisor reads there."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.distributed.message_kinds import BATCH_STATISTICS, KEYS, KINDS
from trainer.distributed.rank_record import RankRecord, own_record
from trainer.distributed.rank_state import RecordMemory, read_state
from trainer.distributed.record_layout import COMPUTE, OPERATIONS, RECORD, SIZE, Phase

GATHER, REDUCE = OPERATIONS.index("all_gather_single"), OPERATIONS.index("all_reduce")
PROGRAM = """
import ctypes, sys, time
from trainer.distributed.rank_record import own_record
from trainer.distributed.record_layout import Phase

record = own_record()
record.finish_step(41)
record.enter(Phase.BACKWARD)
record.begin_message(1, 0)
print("stuck", flush=True)
ctypes.PyDLL(None).sleep(60)  # unlike CDLL it keeps the interpreter's lock
"""


def new_record() -> tuple[mmap.mmap, RankRecord]:
    memory = mmap.mmap(-1, SIZE)
    return memory, RankRecord(memory)


def test_a_rank_that_holds_its_interpreter_can_be_read() -> None:
    memory = RecordMemory()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | memory.environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[4])},
        pass_fds=[memory.fileno()],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        state = memory.read()
        assert state is not None
        assert (state.step, state.phase) == (41, Phase.BACKWARD)
        assert str(state.message) == "message 1 (gradients, all_reduce)"
        assert state.message.waits
        time.sleep(0.05)
        later = memory.read()
        assert later is not None
        assert later.silent_seconds > state.silent_seconds
        memory.request_stacks()
        assert memory.has_request
    finally:
        process.kill()
        process.communicate()
        memory.close()


def test_nothing_is_read_before_the_rank_has_begun() -> None:
    memory = RecordMemory()
    assert memory.read() is None
    memory.close()


def test_the_time_of_messages_is_not_that_of_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    memory, record = new_record()
    record.enter(Phase.FORWARD)
    record.begin_message(KINDS.index(BATCH_STATISTICS), GATHER)
    now += 3_000_000_000
    record.end_message(3_000_000_000)
    now += 2_000_000_000
    record.enter(Phase.LOG)
    now += 500_000_000
    record.finish_step(1)
    state = read_state(memory[:], now + 250_000_000)
    assert state is not None
    assert state.seconds[Phase.FORWARD] == 2
    assert state.message_seconds == 3
    assert state.seconds[Phase.LOG] == 0.5
    assert state.compute_seconds == 2
    assert state.phase_seconds == 0.25
    assert state.step == 1
    assert not state.message.waits


def test_a_message_tells_whether_the_step_departs_from_the_one_before() -> None:
    memory, record = new_record()

    def send(kind: str, operation: int) -> bool:
        record.begin_message(KINDS.index(kind), operation)
        state = read_state(memory[:], time.monotonic_ns())
        record.end_message(0)
        assert state is not None
        assert state.message.waits
        return state.message.departs

    assert [send(BATCH_STATISTICS, GATHER), send(KEYS, GATHER)] == [False, False]
    record.finish_step(1)
    assert [send(BATCH_STATISTICS, GATHER), send(KEYS, REDUCE)] == [False, True]
    record.finish_step(2)
    assert [send(BATCH_STATISTICS, GATHER), send(KEYS, REDUCE), send(KEYS, GATHER)] == [False, False, True]


def test_a_wait_for_an_earlier_message_names_that_message() -> None:
    memory, record = new_record()
    first = record.begin_message(KINDS.index(KEYS), GATHER)
    record.end_message(0)
    record.begin_message(KINDS.index(BATCH_STATISTICS), REDUCE)
    record.end_message(0)
    record.wait_for(first)
    state = read_state(memory[:], time.monotonic_ns())
    assert state is not None
    assert (state.message.number, state.message.kind, state.message.waits) == (1, KEYS, True)
    record.end_message(0)
    state = read_state(memory[:], time.monotonic_ns())
    assert state is not None
    assert (state.message.number, state.message.kind, state.message.waits) == (2, BATCH_STATISTICS, False)


def test_a_process_without_a_supervisor_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECORD, raising=False)
    record = own_record()
    assert not record.is_read
    record.enter(Phase.FORWARD)
    record.finish_step(3)
    assert not record.takes_request()


@given(
    phases=st.lists(st.sampled_from(Phase), min_size=1, max_size=8),
    written=st.sets(st.integers(0, SIZE - 1)),
)
def test_a_reader_never_sees_a_torn_record(phases: list[Phase], written: set[int]) -> None:
    """Whichever bytes of a write have arrived, the record reads as before it or as after it."""
    memory, record = new_record()
    for number, phase in enumerate(phases):
        record.finish_step(number + 1)
        record.enter(phase)
    before = memory[:]
    record.finish_step(1000)
    after = memory[:]
    torn = bytes(after[i] if i in written else before[i] for i in range(SIZE))
    now = time.monotonic_ns()
    assert read_state(torn, now) in (read_state(before, now), read_state(after, now))
    assert len(COMPUTE) < len(Phase)
