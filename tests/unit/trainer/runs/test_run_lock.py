import json
import os
import signal
import time

import pytest
from rank_processes import forks

from data_pipelines.errors import UserError
from trainer.runs import lock_holder, run_lock
from trainer.runs.run_lock import RunLock, is_held

QUICK = {"stale_after_s": 0.5, "heartbeat_s": 0.05}


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lock_file(run):
    return max((run / "lock").glob("*.json"))


def change(run, **fields):
    content = json.loads(lock_file(run).read_text())
    lock_file(run).write_text(json.dumps(content | fields))


def leave_a_lock(run, *, age_s, **fields):
    """The lock file of a holder that did not release it."""
    with RunLock(run, attempt=1):
        content = lock_file(run).read_text()
    lock_file(run).write_text(content)
    change(run, **fields)
    then = time.time() - age_s
    os.utime(lock_file(run), (then, then))


def hold(run, entered, leave, machine=None, answer=None, options=None):
    if machine:
        run_lock.this_machine = lock_holder.this_machine = lambda: machine
    with RunLock(run, attempt=4, **(options or {})) as lock:
        entered.set()
        leave.wait(60)
        if answer:
            answer.put(lock.lost)


def start_holder(run, **kwargs):
    entered, leave = forks().Event(), forks().Event()
    process = forks().Process(target=hold, args=(run, entered, leave), kwargs=kwargs)
    process.start()
    assert entered.wait(60)
    return process, leave


def test_a_second_job_is_refused_and_told_who_holds_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with RunLock(tmp_path, attempt=7), pytest.raises(UserError) as caught, RunLock(tmp_path):
        pass
    message = str(caught.value)
    for part in (
        str(tmp_path),
        f"process {os.getpid()} on ",
        "job 123",
        "attempt 7",
        "0 s old",
        "scancel 123",
    ):
        assert part in message


def test_of_an_interactive_session_the_process_is_ended_and_not_the_session(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    with (
        RunLock(tmp_path, attempt=7),
        pytest.raises(UserError, match="of job 123") as caught,
        RunLock(tmp_path),
    ):
        pass
    assert "scancel" not in caught.value.fix
    assert "end that process" in caught.value.fix


def test_a_released_lock_is_free_again(tmp_path):
    for attempt in range(3):
        with RunLock(tmp_path / "run", attempt=attempt) as lock:
            assert not lock.lost
        assert len(list((tmp_path / "run" / "lock").iterdir())) == 1


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_on_this_machine_is_replaced_at_once(tmp_path, reaped):
    process, _ = start_holder(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid}"), RunLock(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    if reaped:
        process.join()
    else:
        until(lambda: lock_holder.process_start(process.pid) is None)
    with RunLock(tmp_path) as lock:
        assert not lock.lost
    process.join()


def test_a_stopped_holder_on_this_machine_still_holds(tmp_path):
    process, leave = start_holder(tmp_path, options=QUICK)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2 * QUICK["stale_after_s"])
    with pytest.raises(UserError, match=f"process {process.pid}"), RunLock(tmp_path, **QUICK):
        pass
    os.kill(process.pid, signal.SIGCONT)
    leave.set()
    process.join()
    assert process.exitcode == 0


def test_another_process_with_the_holder_s_id_is_not_the_holder(tmp_path):
    leave_a_lock(tmp_path, age_s=0, process_start="1")
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize(("age_s", "free"), [(0, False), (50, False), (70, True)])
def test_a_holder_on_another_machine_holds_as_long_as_it_shows_life(tmp_path, age_s, free):
    leave_a_lock(tmp_path, age_s=age_s, host="node7", machine="elsewhere", pid=1)
    if free:
        with RunLock(tmp_path):
            pass
    else:
        with pytest.raises(UserError, match=rf"process 1 on node7[\s\S]* {age_s} s old[\s\S]*60 s after"):
            RunLock(tmp_path).__enter__()


def test_a_later_start_of_the_same_job_takes_over_at_once_and_the_machine_that_is_cut_off_notices(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    with RunLock(tmp_path, heartbeat_s=20) as cut_off:
        change(tmp_path, machine="elsewhere")
        with (
            pytest.raises(UserError, match="job 5"),
            RunLock(tmp_path),
        ):  # a second command in one job is no later start
            pass
        assert not cut_off.lost
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with RunLock(tmp_path) as later:
            assert cut_off.lost
            assert not later.lost


def test_a_run_is_held_while_its_process_lives(tmp_path):
    assert not is_held(tmp_path)
    with RunLock(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    leave_a_lock(tmp_path, age_s=0, process_start="1")
    assert not is_held(tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_lock_without_a_readable_name_holds_until_it_is_stale(tmp_path, content):
    leave_a_lock(tmp_path, age_s=0)
    lock_file(tmp_path).write_text(content)
    with pytest.raises(UserError, match="has not recorded its name"), RunLock(tmp_path):
        pass
    os.utime(lock_file(tmp_path), (0, 0))
    with RunLock(tmp_path):
        pass


def test_life_is_shown_while_the_lock_is_held(tmp_path):
    with RunLock(tmp_path, **QUICK) as lock:
        os.utime(lock_file(tmp_path), (0, 0))
        until(lambda: lock_file(tmp_path).stat().st_mtime > 0)
        assert not lock.lost


def test_waiting_for_a_holder_that_died_elsewhere(tmp_path):
    leave_a_lock(tmp_path, age_s=0, machine="elsewhere")
    with RunLock(tmp_path, wait_s=60, **QUICK) as lock:
        assert not lock.lost


def test_a_holder_that_was_cut_off_learns_that_it_lost_the_run(tmp_path):
    answer = forks().Queue()
    process, leave = start_holder(tmp_path, machine="elsewhere", answer=answer, options=QUICK)
    os.kill(process.pid, signal.SIGSTOP)
    with RunLock(tmp_path, attempt=5, wait_s=60, **QUICK) as lock:
        os.kill(process.pid, signal.SIGCONT)  # first: `set` waits for a waiting process to wake up
        leave.set()
        assert answer.get(timeout=60) is True
        process.join()
        assert not lock.lost
        assert json.loads(lock_file(tmp_path).read_text())["attempt"] == 5


def test_a_run_folder_that_was_removed_is_lost(tmp_path):
    with RunLock(tmp_path, **QUICK) as lock:
        lock_file(tmp_path).unlink()
        until(lambda: lock.lost)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="cannot be locked"), RunLock(tmp_path / "run"):
        pass


def test_settings_that_would_lose_the_lock_are_refused(tmp_path):
    with pytest.raises(ValueError, match="half of stale_after_s"):
        RunLock(tmp_path, stale_after_s=5, heartbeat_s=5)


def take_once(run, barrier, results):
    barrier.wait(60)
    try:
        with RunLock(run) as lock:
            results.put("won")
            barrier.wait(60)  # nobody leaves before all have tried
            assert not lock.lost
    except UserError:
        results.put("refused")
        barrier.wait(60)


@pytest.mark.parametrize("before", ["nothing", "released", "dead", "stale"])
def test_of_many_takers_one_wins(tmp_path, before):
    takers = 5
    for attempt in range(2):
        run = tmp_path / str(attempt)
        if before == "released":
            RunLock(run).__enter__().__exit__()
        elif before == "dead":
            leave_a_lock(run, age_s=0, process_start="1")
        elif before == "stale":
            leave_a_lock(run, age_s=100, machine="elsewhere")
        barrier, results = forks().Barrier(takers), forks().Queue()
        processes = [forks().Process(target=take_once, args=(run, barrier, results)) for _ in range(takers)]
        for process in processes:
            process.start()
        outcomes = sorted(results.get(timeout=60) for _ in range(takers))
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert outcomes == ["refused"] * (takers - 1) + ["won"]


def take_again_and_again(run, times, trace):
    taken = 0
    while taken < times:
        try:
            with RunLock(run) as lock:
                inside = os.open(run / "inside", os.O_CREAT | os.O_EXCL)
                time.sleep(0.001)
                assert not lock.lost
                os.close(inside)
                (run / "inside").unlink()
                taken += 1
        except UserError:
            time.sleep(0.0005)
    trace.put(taken)


def test_two_are_never_inside_while_locks_change_hands(tmp_path):
    trace = forks().Queue()
    processes = [forks().Process(target=take_again_and_again, args=(tmp_path, 40, trace)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [trace.get(timeout=10) for _ in processes] == [40] * 4
