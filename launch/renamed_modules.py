"""Modules under the names of earlier versions, for jobs that these versions left in a queue.

The pickle and the script of a queued job name modules. When SLURM starts the job, they load the version that is then
installed, so the old names must lead to the code of today.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent
RENAMED = {
    "launch.job": "launch/slurm/job.py",
    "launch.job_end": "launch/slurm/record_failure.py",
    "launch.chain_end": "launch/slurm/cancel_waiting_jobs.py",
    "launch.slurm.job_end": "launch/slurm/record_failure.py",
    "launch.slurm.chain_end": "launch/slurm/cancel_waiting_jobs.py",
    "launch.profile_job": "launch/profile/job.py",
    "launch.studies.judge_run": "launch/studies/evaluate_run.py",
}
"""Old names of modules, with the files that hold their code today."""


class _OldNames:
    """A module finder that Python asks last, if no file has the name."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module with an old name. None for all other names."""
        return spec_from_file_location(name, _ROOT / RENAMED[name]) if name in RENAMED else None


def accept_old_names() -> None:
    """Let `import` and `python -m` find modules by their old names."""
    sys.meta_path.append(_OldNames)
