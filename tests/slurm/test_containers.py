"""Jobs inside of containers, by stand-ins of Apptainer and of Pyxis in real mount namespaces.

What runs inside finds neither SLURM nor any folder of these tests that is not mounted.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
from slurm_cluster import SCRIPTS
from submitted_runs import BRIEF

RUNTIMES = SCRIPTS / "containers"


@pytest.fixture
def image(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that hides everything that the tests have made."""
    image = tmp_path / "all4one.sif"
    image.write_text(f"{Path(sys.executable).parent}\n{tmp_path_factory.getbasetemp()}\n")
    return image


def settings(runtime: str, image: Path) -> list[str]:
    return [
        f"slurm.container={image}",
        f"slurm.container_runtime={runtime}",
        "--setup",
        f"export PATH={RUNTIMES}:$PATH",
    ]


def test_a_run_in_containers_recovers_is_requeued_and_ends_as_outside_of_them(jobs, image, brief) -> None:
    job = jobs.submit("contained", BRIEF, "--nodes", 2, *settings("apptainer", image))
    jobs.wait_for_step("contained", job, 4)
    jobs.kill_rank(job, 1, signal.SIGKILL)
    jobs.wait_for_attempt("contained", 2)
    jobs.cluster.run("scancel", "--signal=USR2", job)  # the time is up: a rank asks SLURM for the requeue
    jobs.finish("contained", job)
    starts = jobs.ledger("contained", "start")
    assert [(start["job"], start["restart"]) for start in starts] == [(job, 0), (job, 0), (job, 1)]
    assert [end["reason"] for end in jobs.ledger("contained", "end")][-2:] == ["time is up", "finished"]
    assert starts[0]["submitted"] is not None  # the controller was asked
    jobs.runs.assert_same("contained", brief)
    assert "does not answer" not in jobs.output("contained")


def test_a_run_by_pyxis_is_cancelled_and_resumed_and_ends_as_outside_of_a_container(
    jobs, image, brief, monkeypatch
) -> None:
    refused = jobs.all4one("submit", *jobs.runs.common, "run.name=no_plugin", *settings("pyxis", image))
    assert refused.code == 2
    assert "does not have the plugin Pyxis" in refused.words
    monkeypatch.setenv("PATH", f"{RUNTIMES}:{os.environ['PATH']}")
    job = jobs.submit("by_pyxis", BRIEF, "--nodes", 2, *settings("pyxis", image))
    jobs.wait_for_step("by_pyxis", job, 3)
    assert jobs.all4one("cancel", jobs.runs.path("by_pyxis").path).code == 0
    jobs.cluster.wait_for_state(job, "CANCELLED")
    assert jobs.ledger("by_pyxis", "end")[-1]["reason"] == "cancelled"
    jobs.finish("by_pyxis", jobs.resume("by_pyxis"))
    assert jobs.ledger("by_pyxis", "ready")[-1]["replayed"] == 0
    jobs.runs.assert_same("by_pyxis", brief)


def test_a_folder_that_is_not_mounted_is_not_there(jobs, image, tmp_path) -> None:
    """The stand-in hides what no option mounts, so the tests above would fail without their mounts."""
    seen = jobs.cluster.run(
        RUNTIMES / "apptainer", "exec", "--bind", f"{image}:{image}:ro", image, "ls", "-A", tmp_path.parent
    )
    assert seen.split() == [tmp_path.name]
    assert "scontrol" not in jobs.cluster.run(
        RUNTIMES / "apptainer", "exec", image, "sh", "-c", "command -v scontrol; true"
    )
