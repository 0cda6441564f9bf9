"""The step of every method and layout on a GPU that does not exist.

It never waits, mixes no devices, and costs what the committed record says.
"""

import json

import pytest
from dry_cases import CASES
from dry_record import PATH, run_all, summary

from data_pipelines.errors import UserError
from trainer.profiling.dry_run.record import StepRecord
from trainer.profiling.dry_run.recorder import DryRunFailed

TOLERANCE = 0.05


@pytest.fixture(scope="module")
def runs() -> dict[str, StepRecord | UserError | DryRunFailed]:
    return run_all()


@pytest.fixture
def record(runs: dict[str, StepRecord | UserError | DryRunFailed], case: str) -> StepRecord:
    found = runs[case]
    assert isinstance(found, StepRecord), found
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_host_never_waits_for_the_device(record: StepRecord) -> None:
    assert list(record.host_waits) == []


@pytest.mark.parametrize("case", CASES)
def test_no_operation_mixes_devices(record: StepRecord) -> None:
    assert list(record.mixes) == []


@pytest.mark.parametrize("case", CASES)
def test_no_kernel_is_launched_for_each_tensor_of_a_list(record: StepRecord) -> None:
    assert list(record.slow_lists) == []


@pytest.mark.parametrize("case", CASES)
def test_convolutions_are_channels_last_in_the_type_of_the_recipe(record: StepRecord, case: str) -> None:
    dtype = "float32" if case == "fp32" else "bfloat16"
    # The flat shards of ZeRO hold weights in their logical order.
    weight = "channels-first" if case.startswith("ZeRO") else "channels-last"
    expected = {f"input {dtype} channels-last, weight {dtype} {order}" for order in (weight, "channels-last")}
    assert set(record.layouts) <= expected


@pytest.mark.parametrize("case", CASES)
def test_the_step_costs_what_the_record_says(record: StepRecord, case: str) -> None:
    expected, found = json.loads(PATH.read_text())[case], summary(record)
    assert found["messages"] == expected["messages"]
    for name in ("launches", "peak_megabytes", "gigaflops"):
        assert found[name] == pytest.approx(expected[name], rel=TOLERANCE), name


def test_the_record_has_no_case_that_is_not_run() -> None:
    assert json.loads(PATH.read_text()).keys() == CASES.keys()
