"""What a rank's record costs in a step.

    python benchmarks/rank_record.py [--messages 200] [--background 20] [--step 100] [--json FILE]

Writes what a rank writes in one step: ten phases, the end of the step, and messages, some of which are sent in the
background and awaited later. A step of `imagenet_resnet50` with batch norm over all ranks has about 200 messages. The
messages themselves are left out, and the cost of calling an empty function in their place is taken off. Prints the
median microseconds of a step, and what fraction of a step of `--step` milliseconds that is. Exits with 1 where it is
more than 0.5 %.
"""

import argparse
import json
import mmap
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.distributed.message_recording import recorded
from trainer.distributed.rank_record import RankRecord
from trainer.distributed.record_layout import IN_STEP, SIZE

MOST = 0.005


class _Work:
    def wait(self) -> None:
        pass


def _awaited() -> None:
    pass


def _background() -> _Work:
    return _Work()


def microseconds(write: Callable[[int], Any], repeats: int) -> float:
    """Return the median time of a call, in microseconds."""
    taken = []
    for number in range(repeats):
        began = time.perf_counter_ns()
        write(number)
        taken.append(time.perf_counter_ns() - began)
    return statistics.median(taken) / 1e3


def cost(messages: int, background: int, repeats: int) -> float:
    """Return what a record costs in a step, microseconds.

    Args:
        messages: messages of a step.
        background: those of them that are awaited later.
        repeats: measured steps.
    """
    record = RankRecord(mmap.mmap(-1, SIZE))
    phases = [*IN_STEP, IN_STEP[0]]

    def step(number: int, awaited: Callable[[], Any], begun: Callable[[], Any]) -> None:
        works = [begun() for _ in range(background)]
        for _ in range(messages - background):
            awaited()
        for work in works:
            work.wait()

    def recorded_step(number: int) -> None:
        for phase in phases:
            record.enter(phase)
        step(number, recorded(_awaited, 0, record), recorded(_background, 1, record))
        record.finish_step(number)

    with_record = microseconds(recorded_step, repeats)
    without = microseconds(lambda number: step(number, _awaited, _background), repeats)
    return with_record - without


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200, help="of a step (default: %(default)s)")
    parser.add_argument(
        "--background", type=int, default=20, help="those that are awaited later (default: %(default)s)"
    )
    parser.add_argument("--step", type=float, default=100.0, help="milliseconds (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    microseconds_of_step = cost(args.messages, args.background, args.repeats)
    result = {
        "messages": args.messages,
        "microseconds_per_step": round(microseconds_of_step, 1),
        "fraction_of_step": round(microseconds_of_step / 1e3 / args.step, 5),
        "step_milliseconds": args.step,
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(microseconds_of_step / 1e3 > MOST * args.step)


if __name__ == "__main__":
    sys.exit(main())
