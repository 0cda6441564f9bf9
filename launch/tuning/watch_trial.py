"""Watches a trial, and stops it if it falls behind: `python -m launch.tuning.watch_trial RUN PROCESS`.

It reads the evaluations of the run from its metrics, so that the training knows nothing of the search. A trial is
stopped as its user would stop it: by SIGINT on this machine, or by a cancellation of its job, after which the run saves
a checkpoint. PROCESS is the process that has started this one and gets the signal, or 0 in a job of SLURM.

It ends with the process that has started it.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from launch.slurm import slurm_commands
from launch.slurm.job_start import Start
from launch.slurm.submitted_jobs import Submissions
from launch.tuning.search import Search
from launch.tuning.trials import Trials
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder

LOOK_SECONDS = 1.0
"""Time between two looks at the metrics."""
_ASK_SECONDS = 15.0
"""Time between two requests to stop."""


def watch(run: RunFolder, process: int) -> None:
    """Report the evaluations of a trial until it ends, or until it has to stop."""
    search, parent = Search.open(run.path.parent), process or os.getppid()
    number, seen = search.number_of(run), 0
    trials = Trials(search, number)
    while os.getppid() == parent and not run.is_finished():
        values = list(search.values(run).items())
        for evaluation, (step, value) in enumerate(values[seen:], start=seen + 1):
            behind = trials.should_stop(number, evaluation, value)
            if behind and step < _total_steps(run):
                write_whole(run.pruned, json.dumps({"step": step, search.asked.metric: value}).encode())
                print(f"{run.path.name} has fallen behind at step {step} and stops", flush=True)
                while os.getppid() == parent:
                    _stop(run, process)
                    time.sleep(_ASK_SECONDS)
                return
        seen = len(values)
        time.sleep(LOOK_SECONDS)


def _total_steps(run: RunFolder) -> int:
    ready = [record for record in read_ledger(run.ledger) if record["event"] == "ready"]
    return int(ready[-1]["total_steps"]) if ready else 0


def _stop(run: RunFolder, process: int) -> None:
    if process:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)
        return
    job = Start.this().job
    Submissions(run).request_cancel(job)
    with suppress(UserError):  # it is asked again
        slurm_commands.interrupt(job)


if __name__ == "__main__":
    watch(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
