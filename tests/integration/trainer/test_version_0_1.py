"""A run and an export that version 0.1 made are still of use."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import torch
from commands import run
from safetensors.torch import load_file

from trainer.inference.loaded_backbones import load_backbones
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "version_0_1"
STRAIGHT = json.loads((FIXTURES / "straight.json").read_text())


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def hashes(checkpoint: Path) -> dict[str, str]:
    found = {}
    for file in ("model", "optimizer"):
        for name, tensor in load_file(checkpoint / f"{file}.safetensors").items():
            content = tensor.contiguous().view(-1).numpy().tobytes()
            found[f"{file}/{name}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def test_an_interrupted_run_resumes_bitwise_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / "run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    done = run("resume", "runs/interrupted", cwd=tmp_path)
    assert done.code == 0, done.out
    resumed = RunFolder(tmp_path / "runs" / "interrupted")
    losses = [r["loss"] for r in read_records(resumed.metrics) if r["kind"] == "train"]
    final = resumed.checkpoints / f"step_{STRAIGHT['final_step']:08d}"
    wanted = {name.replace("neighbour", "neighbor"): value for name, value in STRAIGHT["tensors"].items()}
    assert hashes(final).keys() == wanted.keys()
    if cpu() == STRAIGHT["cpu"]:
        assert losses == STRAIGHT["losses"]
        assert hashes(final) == wanted
    else:  # another processor sums in another order
        assert losses[:14] == STRAIGHT["losses"][:14], "these steps were not trained here"
        assert losses == pytest.approx(STRAIGHT["losses"], rel=1e-2)


def test_an_exported_backbone_loads() -> None:
    name, backbone = load_backbones(FIXTURES / "backbone.safetensors").choose(None)
    assert name == "exported"
    assert backbone(torch.zeros(1, 3, 16, 16)).shape == (1, 32)
