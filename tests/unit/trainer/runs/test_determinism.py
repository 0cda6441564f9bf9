import os
from collections.abc import Iterator

import pytest
import torch

from data_pipelines.errors import UserError
from trainer.config.resume_compat import fingerprint, refuse_changed_training
from trainer.config.schema import load_config
from trainer.runs.determinism import apply_determinism, resumes_bitwise

CUDA, CPU = torch.device("cuda"), torch.device("cpu")  # no function here uses the device
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _torch_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "restored afterwards")
    monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("given", "expected"), [(None, ":4096:8"), (":16:8", ":16:8"), (":0:0", ":4096:8")])
def test_a_deterministic_run_fixes_every_library(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is not None:
        monkeypatch.setenv(WORKSPACE, given)
    torch.backends.cudnn.benchmark = True
    apply_determinism(load_config("digits_demo", ["train.deterministic=true"]), CUDA)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ[WORKSPACE] == expected


@pytest.mark.parametrize("benchmark", [False, True])
def test_other_runs_choose_the_benchmark_only(benchmark: bool) -> None:
    apply_determinism(load_config("digits_demo", [f"parallel.cudnn_benchmark={benchmark}"]), CUDA)
    assert torch.backends.cudnn.benchmark is benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ


def test_nothing_changes_on_a_cpu() -> None:
    apply_determinism(load_config("digits_demo", ["train.deterministic=true"]), CPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ


@pytest.mark.parametrize(
    ("device", "deterministic", "bitwise"), [(CPU, False, True), (CUDA, False, False), (CUDA, True, True)]
)
def test_who_resumes_bitwise(device: torch.device, deterministic: bool, bitwise: bool) -> None:
    config = load_config("digits_demo", [f"train.deterministic={deterministic}"])
    assert resumes_bitwise(config, device) is bitwise


def test_a_benchmark_of_a_deterministic_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.deterministic=true needs parallel.cudnn_benchmark=false"):
        load_config("digits_demo", ["train.deterministic=true", "parallel.cudnn_benchmark=true"])


def test_both_may_change_on_resume() -> None:
    before = load_config("digits_demo")
    for change in ("train.deterministic=true", "parallel.cudnn_benchmark=true"):
        after = load_config("digits_demo", [change])
        refuse_changed_training(before, after)
        assert fingerprint(before) == fingerprint(after)
