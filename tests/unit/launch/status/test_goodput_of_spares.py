import pytest

from launch.status.attempt_facts import AttemptFacts
from launch.status.goodput import Cause, goodput


def test_spares_are_device_time_without_time_of_their_own() -> None:
    one = AttemptFacts(
        job="7",
        restart=0,
        devices=4,
        submitted=0.0,
        allocated=10.0,
        start=20.0,
        ready=30.0,
        first_step=40.0,
        end=100.0,
        has_failed=False,
        evaluations=(),
        saving=0.0,
        kept=10,
        made=10,
        signs=[20.0],
        last_recorded=None,
        tells_times=True,
        spares=2,
    )
    found = goodput([one], submissions={}, ended=100.0)
    assert found.seconds[Cause.SPARE] == 0
    assert found.device_seconds[Cause.SPARE] == 2 * 90
    assert found.allocated_device_seconds == 6 * 90
    assert found.fraction == pytest.approx(4 * 60 / (6 * 90))
