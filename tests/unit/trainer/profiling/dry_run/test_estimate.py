"""Estimates of records that are small enough to compute by hand."""

import json
from collections import Counter

import pytest

from trainer.distributed.message_kinds import BATCH_STATISTICS, GRADIENTS
from trainer.profiling.dry_run.cards import Card
from trainer.profiling.dry_run.estimate import (
    KERNELS,
    LAUNCH_SECONDS,
    LAUNCHES,
    MESSAGES,
    REACHED_BANDWIDTH,
    REACHED_FLOPS,
    Estimate,
    estimate,
)
from trainer.profiling.dry_run.record import (
    BusCopy,
    DeviceMix,
    HostWait,
    Kernel,
    SentMessage,
    StepRecord,
)
from trainer.profiling.instruments import BACKWARD, ONLINE
from trainer.profiling.network_model import Network

CARD = Card("card", 1e9, 1e9 / REACHED_BANDWIDTH, {"bf16": 1e9 / REACHED_FLOPS, "fp32": 1e8 / REACHED_FLOPS})
NETWORK = Network(1, 0.0, 1.0, 0.0, 1e6)


def estimated(record: StepRecord, world_size: int = 1, group: int = 0) -> Estimate:
    return estimate(
        record,
        CARD,
        world_size=world_size,
        rows=10,
        view_sizes=[224, 224],
        batch_norm_group=group,
        network=NETWORK,
    )


def kernel(
    part: str = ONLINE, flops: int = 0, size: int = 0, launches: int = 1, precision: str = "bf16"
) -> Kernel:
    return Kernel(part, "other", precision, flops, size, launches)


def test_a_kernel_takes_its_arithmetic_or_its_traffic() -> None:
    record = StepRecord(Counter({kernel(flops=10**9, size=10): 2, kernel(flops=10, size=10**8): 3}))
    found = estimated(record)
    assert found.kernels == pytest.approx(2 * 1.0 + 3 * 0.1)
    assert found.bound == KERNELS
    assert found.images_per_second == pytest.approx(10 / found.step)
    assert found.cores == pytest.approx(found.images_per_second / 480)


def test_each_type_has_its_own_peak() -> None:
    slow = estimated(StepRecord(Counter({kernel(flops=10**9, precision="fp32"): 1})))
    assert slow.kernels == pytest.approx(10.0)
    assert slow.mfu == pytest.approx(REACHED_FLOPS)


def test_small_kernels_are_bound_by_their_launches() -> None:
    found = estimated(StepRecord(Counter({kernel(flops=1, size=1): 1000})))
    assert found.bound == LAUNCHES
    assert found.step == pytest.approx(1000 * LAUNCH_SECONDS)


def test_gradients_cost_what_outlasts_the_backward_pass() -> None:
    sent = SentMessage(GRADIENTS, "allreduce_", 10**6, "cuda", True)
    record = StepRecord(Counter({kernel(BACKWARD, size=10**9): 1}), messages=Counter({sent: 1}))
    found = estimated(record, world_size=2)
    # two machines: 2 * (1/2) of a million bytes at a million bytes per second
    assert found.gradients == pytest.approx(0.0)
    record.messages[sent] = 3
    assert estimated(record, world_size=2).gradients == pytest.approx(3 - 1)


def test_awaited_messages_add_to_the_step_and_groups_are_smaller() -> None:
    sent = SentMessage(BATCH_STATISTICS, "_allgather_base_", 10**6, "cuda", False)
    record = StepRecord(messages=Counter({sent: 1}))
    assert estimated(record, world_size=1).awaited == 0
    assert estimated(record, world_size=4).awaited == pytest.approx(3)
    assert estimated(record, world_size=4, group=2).awaited == pytest.approx(1)
    assert estimated(record, world_size=4).bound == MESSAGES


def test_a_record_survives_json() -> None:
    record = StepRecord(
        Counter({kernel(): 2}),
        Counter({HostWait("value read", "item", "here"): 1}),
        Counter({DeviceMix("add", "there"): 1}),
        Counter({BusCopy("host to device", 8, "here"): 3}),
        Counter({SentMessage(GRADIENTS, "allreduce_", 4, "cuda", True): 1}),
        Counter({"mul": 4}),
        Counter({"channels-last": 5}),
        state_bytes=6,
        peak_bytes=7,
    )
    assert StepRecord.from_json(json.loads(json.dumps(record.as_json()))) == record
    assert record.copied_to_device == 24
    assert record.message_totals() == {GRADIENTS: (1, 4)}
