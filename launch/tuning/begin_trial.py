"""Begins a trial in its SLURM job, before its processes start: `python -m launch.tuning.begin_trial RUN`.

The settings of a trial are drawn only now, so that the sampler knows the results of all trials before it.
"""

import sys
from pathlib import Path

from data_pipelines.errors import UserError
from launch.messages import print_error
from launch.slurm.submission import NOTHING_TO_DO
from launch.tuning.search import Search
from launch.tuning.search_space import read_space
from launch.tuning.trial_settings import config_of_trial
from launch.tuning.trials import Trials, has_ended
from trainer.runs.run_folder import RunFolder


def begin(run: RunFolder) -> int:
    """Draw the settings of a trial and write them to its run, unless an earlier start has. Returns the exit code."""
    if has_ended(run):
        return NOTHING_TO_DO
    search = Search.open(run.path.parent)
    if run.attempts():
        return 0
    number = search.number_of(run)
    trials = Trials(search, number)
    trials.settle()
    overrides = trials.ask(number, read_space(search.asked.space))
    slurm = run.read_config().slurm  # as it was submitted
    config = config_of_trial(search, run, overrides).model_copy(update={"slurm": slurm})
    run.write_config(config.with_absolute_paths())
    print(f"{run.path.name}: {' '.join(overrides)}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(begin(RunFolder(Path(sys.argv[1]))))
    except UserError as error:
        print_error(error)
        sys.exit(2)
