"""Is a hang found, and is the rank that hangs named? How long does it take?

    python benchmarks/named_hangs.py [--hangs 20] [--nproc 3] [--least 30] [--seed S] [--json FILE]

Trains the digits recipe on N processes. Ranks are made to hang in several ways (`benchmarks/hung_rank.py`), and the
launcher has to name them and to go on. A control group that throttles needs root. Without it, the other ways are used.
Prints how many hangs were named correctly, and the seconds from the beginning of each hang until its rank was ended.
These include 3 s in which the ranks write their stacks. Exits with 1 if fewer than 19 of 20 were named correctly, or if
the run did not reach its end.
"""

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hung_rank import CPU_GROUPS, FOLDER, MISMATCHED, STOPPED, STUCK_READ, THROTTLED
from lost_ranks import SMALL, build_digits

from launch.local.processes import launch
from launch.local.rank_processes import allow_forks
from launch.local.recovery import RunRecovery
from launch.local.runs import new_run
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import RunLock

KINDS = (STOPPED, STUCK_READ, MISMATCHED, THROTTLED)
LEAST_NAMED = 0.95
APART, STEP_SECONDS = 12, 0.2
"""Steps between two hangs, and about the time of one, over which the moment of a stop is spread."""
_NAMED = re.compile(r"rank (\d+) on \S+ hangs: ")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hangs", type=int, default=20)
    parser.add_argument("--nproc", type=int, default=3)
    parser.add_argument("--least", type=int, default=30, help="guard.hang_seconds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of ranks and times (default: %(default)s)")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS, help="ways to hang")
    parser.add_argument("--data", type=Path, help="folder of the digits as shards, which are built otherwise")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    allow_forks()
    with tempfile.TemporaryDirectory() as folder, throttling_group(Path(folder)) as throttles:
        kinds = [kind for kind in args.kinds if throttles or kind != THROTTLED]
        data = (args.data or build_digits(Path(folder))).resolve()
        result = hang_ranks(Path(folder), data, args.hangs, args.nproc, args.least, args.seed, kinds)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["named"] < LEAST_NAMED * args.hangs or not result["finished"])


@contextmanager
def throttling_group(folder: Path) -> Iterator[bool]:
    """Make a control group that hardly lets its processes run. The file `group` in the folder names it. Yields whether
    this process may."""
    group = CPU_GROUPS / f"named_hangs_{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("1000000")
        (group / "cpu.cfs_quota_us").write_text("1000")
    except OSError:
        yield False
        return
    (folder / "group").write_text(str(group))
    try:
        yield True
    finally:
        with suppress(OSError):
            group.rmdir()


def hang_ranks(
    folder: Path, data: Path, hangs: int, nproc: int, least: int, seed: int, kinds: Sequence[str]
) -> dict[str, Any]:
    """Train a run whose ranks hang, and return what its ledger tells of each hang."""
    numbers = random.Random(seed)
    plan = [
        {
            "step": APART * (i + 1),
            "kind": kinds[i % len(kinds)],
            "rank": numbers.randrange(nproc),
            "delay": numbers.uniform(0, STEP_SECONDS),
        }
        for i in range(hangs)
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    os.environ[FOLDER] = str(folder)
    # Ranks that cannot be forks look for `hung_rank` there.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    settings = [
        *SMALL,
        f"data.train={data}/train",
        f"data.validation={data}/validation",
        f"run.folder={folder}",
        "run.name=hung",
        "eval.every_epochs=0",
        f"guard.hang_seconds={least}",
        f"train.max_steps={APART * (hangs + 1)}",
    ]
    run = new_run("digits_demo", settings, nproc)
    with RunLock(run.path, attempt=1) as lock:
        code = launch(
            "hung_rank",
            [str(run.path), str(run.logs)],
            nproc=nproc,
            logs=run.logs,
            recovery=RunRecovery(run, lock),
        )
    return {"seed": seed, "nproc": nproc, "least_seconds": least, "finished": code == 0} | account(
        run, folder, plan
    )


def account(run: RunFolder, folder: Path, plan: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many hangs were named correctly, and after which time."""
    ends = [r for r in read_ledger(run.ledger) if r["event"] == "end" and r["reason"] == EndReason.STALLED]
    named, seconds, wrong = Counter[str](), defaultdict[str, list[float]](list), []
    for i, hang in enumerate(plan):
        file = folder / f"hung_{i}.json"
        began = json.loads(file.read_text())["time"] if file.exists() else float("inf")
        end = next((r for r in ends if r["time"] > began), None)
        told = _NAMED.findall("" if end is None else end["message"])
        if end is not None and told == [str(hang["rank"])]:
            named[hang["kind"]] += 1
            seconds[hang["kind"]].append(end["time"] - began)
        else:
            wrong.append(hang | {"message": None if end is None else end["message"]})
    return {
        "hangs": len(plan),
        "named": named.total(),
        "named_by_kind": {k: f"{named[k]} of {n}" for k, n in Counter(h["kind"] for h in plan).items()},
        "median_seconds": {kind: round(statistics.median(own), 1) for kind, own in seconds.items()},
        "most_seconds": round(max((s for own in seconds.values() for s in own), default=0), 1),
        "named_wrongly": wrong,
        "attempts": run.attempts(),
    }


if __name__ == "__main__":
    sys.exit(main())
