import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from trained_runs import make_run

from trainer.config.schema import load_config
from trainer.distributed.collectives import rank
from trainer.distributed.process_group import Process
from trainer.runs import cpu_threads
from trainer.runs.cpu_threads import _kept
from trainer.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run")[0]


def attempt(run: RunFolder, number: int, ranks: int, **facts: int) -> None:
    run.note("start", attempt=number, world_size=ranks)
    run.note("ready", attempt=number, step=0, total_steps=9, replayed=0, **facts)


def test_the_first_attempt_is_free_to_choose(run: RunFolder) -> None:
    assert _kept(run, 1, 4) is None
    run.note("start", attempt=1, world_size=1)  # ended before it chose
    assert _kept(run, 1, 4) is None


def test_a_resumed_run_keeps_its_number(run: RunFolder) -> None:
    attempt(run, 1, 1, torch_threads=3)
    assert _kept(run, 1, 4) == 3
    attempt(run, 2, 1, torch_threads=2)
    assert _kept(run, 1, 4) == 2


def test_other_ranks_or_fewer_cores_choose_again(run: RunFolder) -> None:
    attempt(run, 1, 2, torch_threads=3)
    assert _kept(run, 1, 4) is None
    assert _kept(run, 2, 2) is None
    assert _kept(run, 2, 3) == 3


def test_a_run_that_did_not_note_it_had_a_thread_for_each_core(run: RunFolder) -> None:
    attempt(run, 1, 2)
    assert _kept(run, 2, 8) == 8


def test_a_damaged_number_is_not_taken(run: RunFolder) -> None:
    run.note("start", attempt=1, world_size=2)
    run.note("ready", attempt=1, step=0, total_steps=9, torch_threads="two")
    assert _kept(run, 2, 8) is None


def choose(folder: Path, own: list[int], torch_threads: int) -> tuple[int, list[str]]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    cpu_threads.LOGGER.addHandler(handler)
    cpu_threads.cores_per_process = lambda: 4
    cpu_threads.own_cores = lambda most: own[rank()]
    config = load_config("digits_demo", [f"parallel.torch_threads={torch_threads}"])
    import torch

    process = Process(rank(), rank(), 2, torch.device("cpu"))
    return cpu_threads.choose_threads(config, RunFolder(folder), process), said


@pytest.mark.parametrize(("own", "given", "chosen"), [([4, 4], 0, 4), ([4, 2], 0, 2), ([4, 2], 3, 3)])
def test_all_ranks_choose_the_number_of_the_most_disturbed(
    tmp_path: Path, own: list[int], given: int, chosen: int, run_ranks: Callable
) -> None:
    (first, said), (second, silence) = run_ranks(choose, 2, tmp_path, own, given)
    assert (first, second) == (chosen, chosen)
    assert len(said) == (chosen == 2)
    assert not said or "computes with 2 of 4 threads" in said[0]
    assert not silence
