"""Real runs of the command on digits: small, of two processes, shared by the tests of a session."""

from collections.abc import Callable
from pathlib import Path

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
