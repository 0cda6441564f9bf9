from launch.local.supervision import GRACE_SECONDS, NOTICE_SECONDS, Outcome, Supervision
from trainer.runs.end_reasons import ExitCode
from trainer.runs.supervisor import HeldCopy, Holdings, Task

SAVES = Task(saves=True)


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
    seen.reports.update({0: Holdings(6), 2: Holdings(7)})
    assert seen.answer(10.1) is None  # rank 3 may hold a newer step
    seen.reports[3] = Holdings()
    assert seen.answer(10.2) == {0: Task(), 2: SAVES, 3: Task()}
    assert seen.answer(10.3) is None
    assert not seen.must_end(10.0 + 100 * GRACE_SECONDS)  # a large checkpoint takes long
    seen.ended(2, ExitCode.LOST_PEER, 20.0)
    assert seen.must_end(10.0 + GRACE_SECONDS + 0.1)
    assert seen.outcome() == Outcome(128 + 9, 1)


def test_the_saver_hears_of_its_task_once_those_that_hand_over_copies_have_ended() -> None:
    seen = Supervision(4, saves=True)
    seen.ended(1, -9, 10.0)
    for rank in (0, 2, 3):
        shards = (rank, (rank - 1) % 4)
        seen.reports[rank] = Holdings(None, (HeldCopy(6, shards, has_model=rank < 2),))
    assert seen.answer(10.1) == {2: Task(copy=6, shards=(1, 2)), 3: Task()}
    assert seen.answer(10.2) is None
    seen.ended(3, ExitCode.LOST_PEER, 10.3)
    assert not seen.must_end(10.0 + 100 * GRACE_SECONDS)  # large shards take long
    seen.ended(2, ExitCode.LOST_PEER, 60.0)
    assert seen.answer(60.1) == {0: Task(saves=True, copy=6)}
    assert seen.answer(60.2) is None
    assert not seen.must_end(60.0 + 100 * GRACE_SECONDS)
    seen.ended(0, ExitCode.LOST_PEER, 70.0)
    assert seen.over


def test_ranks_that_have_not_noticed_a_loss_are_told_of_it_once() -> None:
    seen = Supervision(3, saves=True)
    assert not seen.must_interrupt(0.0)
    seen.ended(1, -9, 10.0)
    seen.reports[0] = Holdings()
    assert not seen.must_interrupt(10.0 + NOTICE_SECONDS)
    assert seen.must_interrupt(10.1 + NOTICE_SECONDS)
    assert not seen.must_interrupt(10.2 + NOTICE_SECONDS)


def test_ranks_that_end_because_the_run_stops_are_not_told_of_a_loss() -> None:
    seen = Supervision(2, saves=True)
    seen.ended(1, ExitCode.TERMINATED, 10.0)
    assert not seen.must_interrupt(100.0)


def test_a_rank_that_does_not_report_in_time_is_not_waited_for() -> None:
    seen = Supervision(3, saves=True)
    seen.ended(0, -9, 10.0)
    seen.reports[1] = Holdings(4)
    assert seen.answer(10.0 + GRACE_SECONDS) is None
    assert seen.answer(10.1 + GRACE_SECONDS) == {1: SAVES}
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


def test_ranks_that_have_reported_or_cannot_save_are_not_told() -> None:
    for seen in (Supervision(2, saves=True), Supervision(2, saves=False)):
        seen.ended(1, -9, 10.0)
        seen.reports[0] = Holdings(4)
        assert not seen.must_interrupt(10.1 + NOTICE_SECONDS)
