import json

import pytest

from benchmarks.study_forecasts import RESULTS, open_claims, verdicts
from launch.studies.plan import read_study

REPORTS = sorted(RESULTS.glob("study_*.json"))


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_verdicts_are_those_of_the_committed_report(report) -> None:
    committed = json.loads(report.read_text())["claims"]
    found = verdicts(read_study(report.stem.removeprefix("study_")), report)
    assert [one.verdict for one in found] == [one["verdict"] for one in committed]


def test_each_open_claim_is_in_the_documentation() -> None:
    page = (RESULTS.parents[1] / "docs" / "benchmarks.md").read_text()
    for name, verdict in open_claims(RESULTS):
        assert verdict.difference is not None
        interval = f"{verdict.difference.mean:+.2f} ± {verdict.difference.half:.2f}"
        seeds = "more than 1,000" if verdict.seeds_needed is None else f"{verdict.seeds_needed:,}"
        assert f"| {interval} | {seeds} |" in page, name
