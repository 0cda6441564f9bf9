"""Tells people how a job has ended, from its script: `python -m launch.slurm.end_notice RUN CODE`."""

import sys
from pathlib import Path

from launch.local.end_notices import how_to_resume, last_end, tell_end
from launch.slurm.job_start import Start
from launch.slurm.record_failure import TRIED_AGAIN, may_requeue
from trainer.monitoring.notifications import notify
from trainer.runs.end_reasons import ExitCode
from trainer.runs.run_folder import RunFolder


def main() -> None:
    """Tell people if the run of this job has finished or failed, or if the job was restarted too often."""
    run, code, start = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), Start.this()
    config, end = run.read_config(), last_end(run, code)
    if run.is_finished() or (code != ExitCode.TIME_IS_UP and end.reason not in TRIED_AGAIN):
        tell_end(run, code)
    elif config.slurm.chain == 1 and (code == ExitCode.TIME_IS_UP or not may_requeue(run, start)):
        often = f"SLURM has restarted job {start.job} {start.restart} times."
        notify(config.notify, "requeues_used_up", run.path, f"{often} {end.text}\n{how_to_resume(run)}")


if __name__ == "__main__":
    main()
