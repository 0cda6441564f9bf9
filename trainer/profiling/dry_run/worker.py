"""The process of a dry run: `python -m trainer.profiling.dry_run.worker OUT WORLD_SIZE NUM_CLASSES < CONFIGS`.

It reads a JSON list of configurations, and writes a JSON list of records, errors of the user, or tracebacks.
`stub_environment` gives its environment. One process can record several recipes for the same number of ranks.
"""

import gc
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


def main() -> int:
    """Record each configuration. Return 1 if one of them failed."""
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
    gc.disable()  # Modules live as long as this process. Each collection would visit all of their objects.
    from data_pipelines.errors import UserError
    from trainer.config.schema import parse
    from trainer.profiling.dry_run.step import dry_run

    gc.freeze()
    gc.enable()
    out, world_size, num_classes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    found: list[Any] = []
    for settings in json.load(sys.stdin):
        try:
            record = dry_run(parse(settings, where="standard input"), world_size, num_classes)
            found.append({"record": record.as_json()})
        except UserError as error:
            found.append({"error": {"what": error.what, "where": str(error.where or ""), "fix": error.fix}})
        except Exception:
            found.append({"failure": traceback.format_exc()})
    out.write_text(json.dumps(found))
    return int(any("record" not in one for one in found))


if __name__ == "__main__":
    sys.exit(main())
