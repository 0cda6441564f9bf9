"""The rules that find a hang and its cause. States are made up, and the clock is a number."""

from dataclasses import replace

import pytest

from launch.local.hang_detection import SETTLED_STEPS, Hang, HangDetection, cause, starved
from trainer.distributed.message_kinds import BATCH_STATISTICS, GRADIENTS, OTHER_MESSAGES, SUMS
from trainer.distributed.rank_state import Message, RankState
from trainer.distributed.record_layout import Phase

LEAST = 30.0
RUNNING = RankState(
    step=5,
    phase=Phase.FORWARD,
    phase_seconds=0.0,
    seconds=(0.0,) * len(Phase),
    message_seconds=0.0,
    compute_seconds=0.0,
    message=Message(57, BATCH_STATISTICS, "all_gather_single", waits=False, departs=False),
    silent_seconds=0.5,
    late_seconds=0.0,
    retries=0,
)


def waits(number: int = 57, kind: str = BATCH_STATISTICS, *, departs: bool = False, **facts) -> RankState:
    message = Message(number, kind, "all_reduce", waits=True, departs=departs)
    return replace(RUNNING, message=message, **facts)


def computes(number: int = 56, **facts) -> RankState:
    message = replace(RUNNING.message, number=number)
    return replace(RUNNING, message=message, **facts)


class Ranks:
    """Ranks that are looked at four times a second."""

    def __init__(self, *, step_seconds: float = 1.0, size: int = 2) -> None:
        self.detection = HangDetection(size, LEAST)
        self.now = 0.0
        for step in range(SETTLED_STEPS + 3):
            self.last = step
            end = self.now + step_seconds
            while self.now < end:
                assert self.look(*[computes(step=step)] * size) is None

    def look(self, *states: RankState) -> Hang | None:
        found = self.detection.look(dict(enumerate(states)), self.now)
        self.now += 0.25
        return found

    def until_hang(self, *states: RankState, most: float = 1000) -> tuple[Hang, float] | None:
        began = self.now
        while self.now < began + most:
            states_now = tuple(
                replace(s, silent_seconds=self.now - began) if s.silent_seconds > 1 else s for s in states
            )
            if (found := self.look(*[replace(s, step=self.last) for s in states_now])) is not None:
                return found, self.now - began
        return None


def test_a_rank_that_misses_a_message_is_named_after_thirty_seconds() -> None:
    found = Ranks().until_hang(waits(), computes(phase=Phase.DATA_WAIT))
    assert found is not None
    hang, seconds = found
    assert hang.ranks == (1,)
    assert LEAST <= seconds + 1 <= LEAST + 2
    assert hang.message({0: "node1", 1: "node2"}) == (
        "rank 1 on node2 hangs: no step for 30 s after step 5. It is in data wait, and rank 0 waits in message 57 "
        "(batch norm, all_reduce)"
    )


def test_a_slow_run_has_ten_times_its_usual_step() -> None:
    found = Ranks(step_seconds=20).until_hang(waits(), computes())
    assert found is not None
    assert 180 <= found[1] <= 201


@pytest.mark.parametrize("phase", [Phase.START, Phase.EVALUATION, Phase.SAVE, Phase.OTHER])
def test_what_may_take_long_is_no_hang(phase: Phase) -> None:
    ranks = Ranks()
    assert ranks.until_hang(waits(), computes(phase=phase), most=900) is None
    # and its time does not count afterwards
    assert ranks.until_hang(waits(), computes(), most=29) is None


def test_a_rank_that_hangs_before_the_evaluation_of_another_is_found() -> None:
    found = Ranks().until_hang(waits(phase=Phase.EVALUATION), computes(phase=Phase.LOG))
    assert found is not None
    assert found[0].ranks == (1,)


def test_a_remote_store_that_fails_is_no_hang() -> None:
    assert Ranks().until_hang(waits(), computes(phase=Phase.DATA_WAIT, retries=1), most=480) is None


def test_the_first_steps_are_no_hang() -> None:
    detection = HangDetection(2, LEAST)
    for now in range(900):
        assert detection.look({0: waits(step=1), 1: computes(step=1)}, float(now)) is None


def test_steps_that_are_seen_together_are_as_many() -> None:
    detection, now = HangDetection(2, LEAST), 0.0
    for step in (0, 5, 10):  # as an agent hears of ranks that make five steps a second
        for _ in range(4):
            assert detection.look(dict.fromkeys(range(2), computes(step=step)), now) is None
            now += 0.25
    found = None
    while found is None and now < 10 + LEAST:
        found = detection.look({0: waits(step=10), 1: computes(step=10)}, now)
        now += 0.25
    assert found is not None
    assert found.ranks == (1,)


def test_a_rank_that_has_not_begun_is_no_hang() -> None:
    detection = HangDetection(2, LEAST)
    assert all(detection.look({0: waits()}, float(now)) is None for now in range(900))


def test_a_stopped_rank_is_named_although_its_record_says_that_it_waits() -> None:
    found = Ranks().until_hang(waits(), waits(silent_seconds=2.0))
    assert found is not None
    assert found[0].ranks == (1,)
    assert "does not run" in found[0].reason


def test_ranks_that_are_all_suspended_do_not_hang() -> None:
    assert Ranks().until_hang(waits(silent_seconds=2.0), computes(silent_seconds=2.0), most=900) is None


def test_a_rank_that_hardly_gets_a_core_is_named_if_all_wait_in_the_same_message() -> None:
    ranks = Ranks()
    found = None
    for look in range(400):
        slow = waits(step=ranks.last, late_seconds=look / 20)
        found = found or ranks.look(waits(step=ranks.last), slow)
    assert found is not None
    assert found.ranks == (1,)
    assert "hardly gets a core" in found.reason


@pytest.mark.parametrize(
    ("late", "named"),
    [
        ({0: 0.1, 1: 9.0}, (1,)),
        ({0: 4.0, 1: 9.0}, None),  # the whole machine is busy
        ({0: 0.0, 1: 0.5}, None),
        ({0: 9.0}, (0,)),
    ],
)
def test_starved_ranks(late: dict[int, float], named: tuple[int, ...] | None) -> None:
    found = starved(late, 30.0)
    assert (found and found[0]) == named


def test_a_single_rank_that_does_not_run_hangs() -> None:
    found = Ranks(size=1).until_hang(computes(silent_seconds=2.0))
    assert found is not None
    assert found[0].ranks == (0,)


def test_the_time_in_which_nobody_looked_does_not_count() -> None:
    ranks = Ranks()
    states = waits(step=ranks.last), computes(step=ranks.last)
    assert ranks.look(*states) is None
    ranks.now += 3600  # a job that SLURM has suspended
    for _ in range(4 * 29):
        assert ranks.look(*states) is None


def test_a_rank_that_sometimes_waits_is_named_if_it_mostly_does_not() -> None:
    ranks = Ranks()
    found = None
    for look in range(400):
        second = waits(step=ranks.last) if look % 4 == 0 else computes(step=ranks.last)
        found = found or ranks.look(waits(step=ranks.last), second)
    assert found is not None
    assert found.ranks == (1,)


def test_ranks_that_go_on_are_not_named() -> None:
    ranks = Ranks()
    for step in range(ranks.last + 1, ranks.last + 6):
        for _ in range(4 * 29):
            assert ranks.look(waits(step=step), computes(step=step)) is None


@pytest.mark.parametrize(
    ("states", "named"),
    [
        ([waits(57), computes(56), waits(57)], (1,)),
        ([waits(57), computes(56), computes(57)], (1,)),  # it begins the message after the others
        ([computes(56, step=6), computes(56, step=5)], (1,)),
        ([computes(56, phase=Phase.UPDATE), computes(56, phase=Phase.BACKWARD)], (1,)),
        ([computes(56), computes(56)], ()),
        ([waits(57), waits(57)], ()),
        ([waits(57, SUMS), waits(57, OTHER_MESSAGES), waits(57, SUMS)], (1,)),
        ([waits(57, SUMS), waits(57, OTHER_MESSAGES, departs=True)], (1,)),
        ([waits(57, SUMS, departs=True), waits(58, GRADIENTS, departs=True)], (0,)),
        ([waits(58), waits(57), waits(58)], (1,)),
    ],
)
def test_the_cause(states: list[RankState], named: tuple[int, ...]) -> None:
    waiting = {rank for rank, state in enumerate(states) if state.message.waits}
    assert cause(dict(enumerate(states)), waiting, 15.0)[0] == named


@pytest.mark.parametrize("knows", [True, False])
def test_ranks_that_started_again_know_the_usual_step_after_their_first_one(knows: bool) -> None:
    ranks = Ranks()
    ranks.detection = HangDetection(2, LEAST, ranks.detection.durations if knows else ())
    assert ranks.look(*[computes(step=0, phase=Phase.START)] * 2) is None  # no checkpoint is loaded yet
    ranks.last = 10
    assert ranks.until_hang(waits(), computes(), most=900) is None  # the first step may compile again
    ranks.last = 11
    found = ranks.until_hang(waits(), computes(), most=900)
    if not knows:
        assert found is None
        return
    assert found is not None
    assert found[0].ranks == (1,)
    assert LEAST <= found[1] + 1 <= LEAST + 2
