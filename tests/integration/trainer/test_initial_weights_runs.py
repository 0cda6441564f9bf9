"""Runs that start from weights: of two processes, killed and resumed without the file."""

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(runs, straight, command, tmp_path_factory) -> Path:
    """The averaged copy of a trained run, with torchvision's names."""
    path = tmp_path_factory.mktemp("exported") / "net.safetensors"
    result = command("export", runs.path(straight).path, "--momentum", "--out", path)
    assert result.code == 0, result.out
    return path


def test_a_run_begins_with_the_file_s_weights_and_resumes_without_it(
    runs, straight, exported, tmp_path
) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(exported.read_bytes())
    process = runs.start(*runs.arguments("started", f"backbone.init={file}"), "--nproc", 2)
    runs.wait_for_step("started", 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert out.count("100 of 100 tensors of the backbone match") == 1
    end = [r for r in runs.metrics(straight) if r["kind"] == "eval"][-1]
    begin = next(r for r in runs.metrics("started") if r["kind"] == "eval")
    assert begin["step"] == 0
    assert begin["knn_online"] == begin["knn_momentum"] == pytest.approx(end["knn_momentum"], abs=1e-6)

    file.unlink()
    result = runs.resume("started")
    assert result.code == 0, result.out
    assert "tensors of the backbone match" not in result.out


def test_a_file_that_does_not_fit_stops_the_run_before_it_has_a_folder(runs, exported) -> None:
    result = runs.train("misfit", f"backbone.init={exported}", "backbone.width=16")
    assert result.code == 2
    assert "another network: 4 of 100 tensors of the backbone match" in result.words
    assert "Traceback" not in result.out
    assert not runs.path("misfit").path.exists()
