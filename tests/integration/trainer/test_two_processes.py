import time
from pathlib import Path

import psutil
import torch
from tiny_runs import NO_EVALUATION


def test_without_rounding_the_number_of_processes_changes_nothing(runs) -> None:
    names = {1: "alone", 2: "together"}
    for nproc, name in names.items():
        result = runs.train(name, "train.precision=fp64", NO_EVALUATION, nproc=nproc)
        assert result.code == 0, result.out
    one, two = (runs.tensors(name) for name in names.values())
    assert one["backbone.conv1.weight"].dtype == torch.float64
    for name, tensor in one.items():
        if tensor.is_floating_point():
            assert (tensor - two[name]).norm() <= 1e-6 * tensor.norm() + 1e-10, name
        else:
            assert torch.equal(tensor, two[name]), name


def test_two_processes_cannot_train_one_run(runs) -> None:
    # longer than the second command takes to come up, on however busy a machine
    long = ("train.epochs=10000", "train.max_steps=100000", NO_EVALUATION)
    process = runs.start(*runs.arguments("held", *long), "--nproc", 1)
    try:
        runs.wait_for_step("held", 1, process)
        result = runs.resume("held", nproc=1)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert result.code == 2
    assert "is being trained by" in result.words
    assert "Traceback" not in result.out


def test_a_killed_launcher_leaves_no_rank_behind(runs) -> None:
    process = runs.start(*runs.arguments("orphans", NO_EVALUATION), "--nproc", 2)
    runs.wait_for_step("orphans", 1, process)
    ranks = [rank.pid for rank in psutil.Process(process.pid).children()]
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 20  # the kernel takes a moment to end them
    while not all(is_zombie(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_are_forks_of_a_launcher_that_has_imported_all(runs) -> None:
    process = runs.start(*runs.arguments("forks", NO_EVALUATION), "--nproc", 2)
    runs.wait_for_step("forks", 1, process)
    launcher = psutil.Process(process.pid)
    assert [rank.cmdline() for rank in launcher.children()] == [launcher.cmdline()] * 2
    assert process.wait(timeout=120) == 0


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
