"""A short run of `benchmarks/chaos.py`: one job through several events. The long one is a benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"killed rank", "exception", "killed agent", "node without power"}


@pytest.mark.usefixtures(
    "cluster_of_the_session"
)  # which tells whether there can be a cluster; this run has its own
def test_one_run_survives_several_events_and_equals_an_undisturbed_one(tmp_path: Path) -> None:
    results = tmp_path / "chaos.json"
    command = [sys.executable, "benchmarks/chaos.py", "--events", "4", "--seed", "1", "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert results.exists(), f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    found = json.loads(results.read_text())
    events = found["events"]["in_place"]
    assert {one["kind"] for one in events} == KINDS
    assert found["checks"]["bitwise as a run that nothing disturbed, every step on record once"]
    assert found["checks"]["a lost rank: no step redone"]
    # The spare takes the place of the first node that is lost. For the second one the job is requeued.
    lost = [one for one in events if one["kind"] in ("killed agent", "node without power")]
    assert [one["in_place"] for one in lost] == [True, False]
    assert all(one["in_place"] for one in events if one["kind"] in ("killed rank", "exception"))
