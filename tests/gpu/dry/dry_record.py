"""The committed record of every case. `python tests/gpu/dry/dry_record.py` writes it anew after an intended change."""

import json
import sys
from pathlib import Path
from typing import Any

from dry_cases import CASES, CLASSES, WORLD_SIZE, config_of

from data_pipelines.errors import UserError
from trainer.profiling.dry_run.record import StepRecord
from trainer.profiling.dry_run.recorder import DryRunFailed, record_steps

PATH = Path(__file__).with_name("record.json")


def run_all() -> dict[str, StepRecord | UserError | DryRunFailed]:
    """Run a step of every case without a device."""
    found = record_steps([config_of(case) for case in CASES], WORLD_SIZE, CLASSES)
    return dict(zip(CASES, found, strict=True))


def summary(record: StepRecord) -> dict[str, Any]:
    """Return what the committed record holds of a case."""
    return {
        "launches": record.launches,
        "peak_megabytes": round(record.peak_bytes / 1e6),
        "gigaflops": round(record.flops / 1e9, 1),
        "messages": {kind: list(found) for kind, found in sorted(record.message_totals().items())},
    }


def main() -> int:
    """Write the record."""
    found: dict[str, Any] = {}
    for case, record in run_all().items():
        if not isinstance(record, StepRecord):
            print(f"{case}: {record}", file=sys.stderr)
            return 1
        found[case] = summary(record)
    PATH.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
