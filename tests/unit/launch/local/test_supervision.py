from hypothesis import given
from hypothesis import strategies as st

from launch.local.supervision import GRACE_SECONDS, INTERRUPT_SECONDS, Outcome, Supervision, choose_saver
from trainer.runs.end_reasons import ExitCode


@given(st.dictionaries(st.integers(0, 20), st.none() | st.integers(0, 5)))
def test_the_saver_holds_the_newest_step_that_any_rank_holds(reports: dict[int, int | None]) -> None:
    saver = choose_saver(reports)
    held = {rank: step for rank, step in reports.items() if step is not None}
    if saver is None:
        assert not held
    else:
        assert held[saver] == max(held.values())
        assert saver == min(rank for rank, step in held.items() if step == held[saver])


def test_ranks_that_all_end_well_are_not_disturbed() -> None:
    seen = Supervision(2, saves=True)
    seen.ended(1, 0, 10.0)
    assert seen.answer(1000.0) is None
    assert not seen.must_end(1000.0)
    seen.ended(0, 0, 1001.0)
    assert seen.over
    assert seen.outcome() == Outcome(0, None)


def test_one_rank_saves_once_all_that_are_left_have_reported() -> None:
    seen = Supervision(4, saves=True)
    seen.ended(1, -9, 10.0)
    seen.reports.update({0: 6, 2: 7})
    assert seen.answer(10.1) is None  # rank 3 may hold a newer step
    seen.reports[3] = None
    assert seen.answer(10.2) == {0: False, 2: True, 3: False}
    assert seen.answer(10.3) is None
    assert not seen.must_end(10.0 + 100 * GRACE_SECONDS)  # a large checkpoint takes long
    seen.ended(2, ExitCode.LOST_PEER, 20.0)
    assert seen.must_end(10.0 + GRACE_SECONDS + 0.1)
    assert seen.outcome() == Outcome(128 + 9, 1)


def test_a_rank_that_does_not_report_in_time_is_not_waited_for() -> None:
    seen = Supervision(3, saves=True)
    seen.ended(0, -9, 10.0)
    seen.reports[1] = 4
    assert seen.answer(10.0 + GRACE_SECONDS) is None
    assert seen.answer(10.1 + GRACE_SECONDS) == {1: True}
    seen.ended(1, ExitCode.LOST_PEER, 16.0)
    assert seen.must_end(16.0)


def test_without_a_rank_that_may_save_the_others_end_after_the_grace_time() -> None:
    seen = Supervision(2, saves=False)
    seen.ended(0, 7, 10.0)
    assert seen.answer(100.0) is None
    assert not seen.must_end(10.0)
    assert seen.must_end(10.1 + GRACE_SECONDS)
    assert seen.outcome() == Outcome(7, 0)


def test_the_failure_is_that_of_a_rank_that_did_not_only_lose_a_peer() -> None:
    seen = Supervision(3, saves=True)
    seen.ended(2, ExitCode.LOST_PEER, 1.0)
    assert seen.outcome() == Outcome(ExitCode.LOST_PEER, 2)
    seen.ended(0, ExitCode.USER_ERROR, 1.1)
    assert seen.outcome() == Outcome(ExitCode.USER_ERROR, 0)
    stopped = Supervision(1, saves=True)
    stopped.ended(0, ExitCode.TERMINATED, 1.0)
    assert stopped.outcome() == Outcome(ExitCode.TERMINATED, None)


def test_ranks_that_do_not_report_are_told_once_that_a_peer_is_lost() -> None:
    seen = Supervision(3, saves=True)
    assert not seen.must_interrupt(1000.0)
    seen.ended(2, -9, 10.0)
    seen.reports[0] = 4
    assert not seen.must_interrupt(10.0)
    assert seen.must_interrupt(10.1 + INTERRUPT_SECONDS)
    assert not seen.must_interrupt(10.2 + INTERRUPT_SECONDS)
    assert seen.answer(10.2 + INTERRUPT_SECONDS) is None  # rank 1 still has time


def test_ranks_that_have_reported_or_cannot_save_are_not_told() -> None:
    for seen in (Supervision(2, saves=True), Supervision(2, saves=False)):
        seen.ended(1, -9, 10.0)
        seen.reports[0] = 4
        assert not seen.must_interrupt(10.1 + INTERRUPT_SECONDS)
