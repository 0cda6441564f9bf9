from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from trainer.runs.passed_lock import NUMBER, pass_on, passed_lock
from trainer.runs.run_lock import RunLock


def test_a_rank_learns_that_its_supervisor_has_lost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NUMBER, raising=False)
    assert passed_lock(tmp_path) is None
    with RunLock(tmp_path, attempt=1) as first:
        monkeypatch.setenv(NUMBER, pass_on(first)[NUMBER])
        lock = passed_lock(tmp_path)
        assert lock is not None
        lock.require()
    with RunLock(tmp_path, attempt=2):
        assert lock.lost
        with pytest.raises(UserError, match="taken over"):
            lock.require()


def test_a_supervisor_has_no_thread_while_it_forks_and_then_shows_life_again(tmp_path: Path) -> None:
    import threading
    import time

    with RunLock(tmp_path, stale_after_s=0.5, heartbeat_s=0.05) as lock:
        with lock.without_thread():
            assert [t.name for t in threading.enumerate() if t.name == "run lock"] == []
        (file,) = (tmp_path / "lock").glob("*.json")
        before, deadline = file.stat().st_mtime_ns, time.monotonic() + 60
        while file.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not lock.lost
