"""Starts the process of a dry run and reads what it recorded."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from trainer.config.schema import Config, dump
from trainer.profiling.dry_run.library import stub_environment
from trainer.profiling.dry_run.record import StepRecord

_WORKER = "trainer.profiling.dry_run.worker"


class DryRunFailed(RuntimeError):
    """A step could not be run without a device. The message has the traceback of the process."""


def record_steps(
    configs: Sequence[Config], world_size: int, num_classes: int
) -> list[StepRecord | UserError | DryRunFailed]:
    """Return what a step of each recipe does on one of `world_size` ranks, or why it could not be run.

    It takes 10 to 30 seconds for each recipe.

    Raises:
        UserError: the stand-in for the CUDA runtime cannot be built.
    """
    environment = stub_environment(0, world_size)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.json"
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                _WORKER,
                str(out),
                str(world_size),
                str(num_classes),
            ],
            input=json.dumps([dump(config) for config in configs]),
            env=environment,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            reason = done.stderr.strip()[-4000:] or f"the process ended with code {done.returncode}"
            return [DryRunFailed(reason)] * len(configs)
        found = json.loads(out.read_text())
    return [_outcome(one) for one in found]


def _outcome(found: dict[str, Any]) -> StepRecord | UserError | DryRunFailed:
    if "record" in found:
        return StepRecord.from_json(found["record"])
    if "error" in found:
        return UserError(
            found["error"]["what"], where=found["error"]["where"] or None, fix=found["error"]["fix"]
        )
    return DryRunFailed(found["failure"])
