"""A real SLURM cluster, which lives as long as the tests of a session, and tiny runs to submit to it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from slurm_cluster import Cluster, missing
from submitted_runs import BRIEF, SHORT, Jobs
from tiny_runs import Runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if (why := missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(cluster_of_the_session: Cluster) -> Cluster:
    cluster_of_the_session.heal()
    return cluster_of_the_session


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    digits = tmp_path_factory.mktemp("digits")
    result = run("data", "build", "digits", digits)
    assert result.code == 0, result.out
    return Runs(tmp_path_factory.mktemp("runs"), digits)


@pytest.fixture
def jobs(cluster: Cluster, runs: Runs) -> Jobs:
    return Jobs(cluster, runs)


@pytest.fixture(scope="session")
def straight(runs: Runs) -> str:
    """Name of a run of two processes that nothing disturbed."""
    result = runs.train("straight", *SHORT)
    assert result.code == 0, result.out
    return "straight"


@pytest.fixture(scope="session")
def brief(runs: Runs) -> str:
    """Name of a brief run of two processes that nothing disturbed."""
    result = runs.train("brief", *SHORT, BRIEF)
    assert result.code == 0, result.out
    return "brief"
