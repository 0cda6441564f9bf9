"""Evaluation, checkpoints and comparisons of ranks on a GPU that does not exist: what they wait for, copy and hold."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoints.host_copies import STAGING_BYTES
from trainer.engine.replicas import StateKind
from trainer.profiling.dry_run.cards import CARDS
from trainer.profiling.dry_run.estimate import LAUNCH_SECONDS, kernel_seconds
from trainer.profiling.dry_run.library import stub_environment
from trainer.profiling.dry_run.record import StepRecord

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    environment = stub_environment(0, 8) | {"PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("other_steps.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return records


@pytest.mark.parametrize("name", ["evaluation", "checkpoint", "comparison"])
def test_no_wait_is_unexpected_and_no_devices_mix(found: dict[str, Any], name: str) -> None:
    record = StepRecord.from_json(found[name])
    assert record.launches > 0
    assert list(record.host_waits) == []
    assert list(record.mixes) == []


def test_extracting_features_copies_nothing_to_the_host(found: dict[str, Any]) -> None:
    record = StepRecord.from_json(found["evaluation"])
    assert list(record.copies) == []
    assert record.peak_bytes - record.state_bytes < 1.95e9  # as docs/how-to/evaluate.md says
    assert list(record.waits) == []


def test_a_checkpoint_copies_each_byte_once_through_the_buffer(found: dict[str, Any]) -> None:
    record, state = StepRecord.from_json(found["checkpoint"]), found["state_bytes"]
    assert {copy.direction for copy in record.copies} == {"device to host"}
    assert sum(copy.bytes * times for copy, times in record.copies.items()) == state
    assert max(copy.bytes for copy in record.copies) <= STAGING_BYTES // 2
    halves = state / (STAGING_BYTES // 2)
    assert halves <= record.waits.total() <= 1.5 * halves
    # The weights of one convolution at a time are made contiguous.
    assert record.peak_bytes - record.state_bytes <= 4 * 512 * 512 * 3 * 3


def test_a_comparison_of_the_ranks_sends_one_small_message_and_takes_milliseconds(
    found: dict[str, Any],
) -> None:
    record = StepRecord.from_json(found["comparison"])
    assert [(m.operation, m.bytes, m.device, n) for m, n in record.messages.items()] == [
        ("_allgather_base_", 8 * len(StateKind), "cuda", 1)
    ]
    assert [wait.where.partition(",")[0] for wait in record.waits] == [
        "trainer.distributed.host_reading:HostReading.values"
    ]
    assert record.copied_to_device == 0
    # A block of words and its products at a time, and the copy of a weight that is not contiguous.
    assert record.peak_bytes - record.state_bytes < 150e6
    card = CARDS["a100"]
    kernels = sum(n * kernel_seconds(kernel, card) for kernel, n in record.kernels.items())
    assert kernels < 0.01
    assert record.launches * LAUNCH_SECONDS < 0.1, "0.5 % of 200 steps of 100 ms"
