"""Real runs of the command on digits: small, of two processes, shared by the tests of a session."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Result, run
from poisoned_runs import Poisoned
from tiny_runs import Runs


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """Runs `all4one` with arguments to its end."""
    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    result = run("data", "build", "digits", folder)
    assert result.code == 0, result.out
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), digits)


@pytest.fixture(scope="session")
def straight(runs: Runs) -> str:
    """Name of a run that nothing disturbed."""
    result = runs.train("straight")
    assert result.code == 0, result.out
    return "straight"


@pytest.fixture
def poisoned(runs: Runs) -> Poisoned:
    return Poisoned(runs)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser without a window."""
    if (path := shutil.which("chromium")) is None:
        why = "chromium is missing: make test-packages (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide GPUs, of which a machine may have fewer than runs at the same time."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
