"""How many seeds would decide the open claims of the studies whose results are committed?

    python benchmarks/study_forecasts.py [--results FOLDER]

Reads the scores in `study_NAME.json` and decides the claims of the shipped study again. Prints a line for each claim
that is open and has scores. A forecast assumes that mean and spread of the differences stay as they are: it is an
estimate.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from launch.studies.claims import UNDECIDED, Verdict, decide_claim
from launch.studies.plan import Cell, Study, read_study

RESULTS = Path(__file__).with_name("results")


def verdicts(study: Study, report: Path) -> list[Verdict]:
    """Return the verdicts on the claims of a study with the scores of a report."""
    runs = json.loads(report.read_text())["runs"]
    scores = {
        Cell(tuple((axis, run[axis]) for axis in study.grid), run["seed"]): run["score"]
        for run in runs
        if run["score"] is not None
    }
    return [decide_claim(study, claim, scores) for claim in study.claims]


def open_claims(results: Path) -> Iterator[tuple[str, Verdict]]:
    """Yield the open claims of all reports in a folder that have scores, with the name of the study."""
    for report in sorted(results.glob("study_*.json")):
        name = report.stem.removeprefix("study_")
        found = verdicts(read_study(name), report)
        yield from ((name, one) for one in found if one.verdict == UNDECIDED and one.difference is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    for name, verdict in open_claims(parser.parse_args().results):
        print(f"{name}: {verdict}")


if __name__ == "__main__":
    main()
