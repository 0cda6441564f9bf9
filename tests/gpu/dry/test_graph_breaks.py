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


@pytest.mark.parametrize("case", TRACED)
def test_no_graph_ends_within_a_network(case: str) -> None:
    environment = stub_environment(0, WORLD_SIZE) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, SCRIPT, case], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, graphs, breaks = json.loads(done.stdout.splitlines()[-1])
    assert graphs >= 2  # at least a backbone and a projector
    assert breaks == {}
