"""Views reach a GPU as bytes, on a stream of their own, and are the pixels that a CPU normalizes itself."""

import json
import subprocess
import sys
from pathlib import Path

from trainer.profiling.dry_run.library import stub_environment

ROOT = Path(__file__).resolve().parents[3]


def test_pixels_reach_the_device_as_bytes_beside_the_training() -> None:
    environment = stub_environment(0, 1) | {"PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("copied_pixels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["cuda", "cuda"]
    assert found["dtypes"] == ["torch.uint8", "torch.uint8"]
    assert found["beside the training"] == [True, True]
    assert found["largest difference"] < 2e-6
