"""Trains one trial on this machine, watched if the search stops those that fall behind."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from data_pipelines.errors import UserError
from launch.local.rank_processes import module_command
from launch.local.runs import resume_run
from launch.messages import print_error
from launch.tuning.search import Search
from launch.tuning.search_space import read_space
from launch.tuning.trial_settings import config_of_trial
from launch.tuning.trials import Trials
from trainer.runs.end_reasons import STOPPED
from trainer.runs.run_folder import RunFolder

WATCH = "launch.tuning.watch_trial"


def draw_settings(search: Search, run: RunFolder) -> None:
    """Draw the settings of a trial with what is known of the others, and write them to its run if it has none."""
    number = search.number_of(run)
    trials = Trials(search, number)
    trials.settle()
    overrides = trials.ask(number, read_space(search.asked.space))
    print(f"{run.path.name} of {search.asked.trials} trials: {' '.join(overrides)}", flush=True)
    if not run.attempts():  # a trial that was only queued has no settings of its own
        run.logs.mkdir(parents=True, exist_ok=True)
        run.write_config(config_of_trial(search, run, overrides).with_absolute_paths())


def run_trial(search: Search, run: RunFolder, nproc: int) -> int:
    """Train a trial from its current state. Returns the exit code."""
    try:
        with _watched(search, run):
            return resume_run(run.path, [], nproc)
    except KeyboardInterrupt:
        if not run.pruned.exists():
            raise
        return STOPPED[0]  # the watcher's signal came when the processes had just ended
    except UserError as error:
        print_error(error)
        return 2


@contextmanager
def _watched(search: Search, run: RunFolder) -> Iterator[None]:
    """Watch a trial from another process, if the search stops those that fall behind.

    A thread would not do, because a process with threads cannot fork safely.
    """
    if not search.asked.prune:
        yield
        return
    watcher = subprocess.Popen(
        module_command(WATCH, str(run.path), str(os.getpid())),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()
