"""What each rank of a profile does. The environment describes its process group."""

import argparse
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

from data_pipelines.cores import usable_cores
from data_pipelines.files import write_whole
from launch.local.imports import collector_paused
from launch.local.rank_processes import heed_signals
from launch.local.worker import end_with_parent, run_with_error_report
from trainer.runs.run_folder import RunFolder


def import_all() -> None:
    """Import what a rank needs, so that forks of this process need not."""
    import trainer.profiling.measure
    import trainer.setup  # noqa: F401
    from trainer.distributed.process_group import import_deepspeed

    import_deepspeed()


def main() -> int:
    """Measure as one rank of the process group that the environment names. The first rank writes the result."""
    end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--trace", action="store_true")
    args = parser.parse_args()
    return run_with_error_report(lambda: measure(RunFolder(args.run), args.steps, trace=args.trace))


def measure(run: RunFolder, steps: int, *, trace: bool) -> int:
    """Profile the settings in a folder as one rank. The first rank writes `profile.json` there. Return 0."""
    with collector_paused():
        import_all()
    from data_pipelines.progress import ProgressBars
    from trainer.distributed.process_group import initialize
    from trainer.profiling.measure import profile
    from trainer.profiling.verdict import find_verdict
    from trainer.setup import build

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing needs to be saved on Ctrl-C
    heed_signals()
    process, config = initialize(), run.read_config()
    parts = build(config, run, process)

    def write_trace(profiler: Any) -> None:
        profiler.export_chrome_trace(str(run.path / f"trace_rank_{process.rank}.json"))

    say = ProgressBars(process.is_first).say
    measured, spans = profile(config, process, parts, steps, say, write_trace if trace else None)
    if process.is_first:
        verdict = find_verdict(measured, config, usable_cores())
        found = {
            **measured.as_json(),
            "verdict": dataclasses.asdict(verdict),
            "spans": [list(s) for s in spans],
        }
        write_whole(run.path / "profile.json", json.dumps(found, indent=1).encode())
    parts.engine.close()
    return 0
