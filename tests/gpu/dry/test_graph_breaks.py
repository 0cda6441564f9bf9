"""torch.compile makes whole graphs of backbones and heads, with the batch norm of CUDA devices in them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dry_cases import WORLD_SIZE
from traced_networks import TRACED

from trainer.profiling.dry_run.library import stub_environment

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("traced_networks.py")


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[int, dict[str, int]]]:
    """Number of graphs, and breaks by reason, of each case. One process traces all, because its imports take long."""
    environment = stub_environment(0, WORLD_SIZE) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return {case: (graphs, breaks) for case, graphs, breaks in map(json.loads, lines)}


@pytest.mark.parametrize("case", TRACED)
def test_no_graph_ends_within_a_network(traced: dict[str, tuple[int, dict[str, int]]], case: str) -> None:
    graphs, breaks = traced[case]
    assert graphs >= 2  # at least a backbone and a projector
    assert breaks == {}
