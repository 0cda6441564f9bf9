import pytest

from data_pipelines.errors import UserError
from launch.local import verify_resume


def test_what_would_stop_the_runs_is_said_before_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise AssertionError("a run has started")

    monkeypatch.setattr(verify_resume._Job, "start", start)
    with pytest.raises(UserError) as caught:
        verify_resume.verify("digits_demo", ["data.train=nowhere"], kills=1, nproc=2, seed=1)
    assert "nowhere" in str(caught.value)
    assert "ended with code" not in str(caught.value)
