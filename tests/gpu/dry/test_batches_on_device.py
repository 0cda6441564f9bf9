"""Micro-batches reach a GPU as bytes, on a stream of their own, one ahead, and are the pixels that a CPU normalizes."""

import json
import subprocess
import sys
from pathlib import Path

from trainer.profiling.dry_run.library import stub_environment

ROOT = Path(__file__).resolve().parents[3]


def test_pixels_reach_the_device_as_bytes_beside_the_training_one_micro_batch_ahead() -> None:
    environment = stub_environment(0, 1) | {"PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("batches_on_device.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["cuda"]
    assert found["dtypes"] == ["torch.uint8"]
    assert found["beside the training"]
    assert found["largest difference"] < 2e-6
    assert found["ids"] == list(range(25))
    assert found["places of a view"] == 2  # however many micro-batches there are
    assert found["places of kept views"] == 5
    ahead = ["copy", "copy", "computing waits", "compute"]
    # memory is written again only after the work on the micro-batch that was there
    later = ["copy", "copying waits", "computing waits", "compute"]
    assert found["order"] == [*ahead, *later * 3, "computing waits", "compute"]
