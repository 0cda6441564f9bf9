"""The commands that take a backbone, with one on a stand-in for the hub. The library reads its settings when it is
imported, so these are new processes."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import Result, all4one
from hub_server import TOKEN, HubServer
from tiny_runs import TINY, Runs

from trainer.runs.run_folder import RunFolder


@pytest.fixture
def command(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*arguments: object) -> Result:
        done = subprocess.run(all4one(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert TOKEN not in done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def straight_run(runs: Runs, straight: str) -> Path:
    return runs.path(straight).path


@pytest.fixture
def pushed(command, straight_run, hub: HubServer, tmp_path: Path) -> str:
    """Commit of a model on the hub, which a run became."""
    done = command("export", straight_run, "--push", "lab/net", "--private", "--license", "mit")
    assert done.code == 0, done.err
    model = hub.models["lab/net"]
    assert model.private
    assert f"uploaded to {hub.url}/lab/net: all4one.load_backbone('hf://lab/net@{model.head}')" in done.out
    assert {path.name for path in (tmp_path / "net").iterdir()} < model.files().keys()
    card = model.files()["README.md"].decode()
    assert "kNN during training" in card
    assert "license: mit" in card
    return model.head


def test_a_model_on_the_hub_is_evaluated_and_embeds_as_its_run(
    command, pushed, straight_run, digits, hub: HubServer, tmp_path: Path
) -> None:
    sets = ("--train", digits / "train", "--validation", digits / "validation")
    done = command("eval", "hf://lab/net", "--knn", *sets, "--nproc", 2)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "net.eval.json").read_text())
    assert found["source"] == f"hf://lab/net@{pushed}"
    asked = [request for request in hub.requests if "/resolve/" in request.path]
    assert len(asked) == 1  # the ranks read the commit in the cache

    for source, name in ((f"hf://lab/net@{pushed}", "hub"), (straight_run, "run")):
        done = command("embed", source, digits / "validation", "--out", f"{name}.npy")
        assert done.code == 0, done.err
    assert np.array_equal(np.load(tmp_path / "hub.npy"), np.load(tmp_path / "run.npy"))


def test_a_run_starts_from_a_model_on_the_hub(command, pushed, digits, tmp_path: Path) -> None:
    settings = (
        *TINY,
        f"data.train={digits}/train",
        f"data.validation={digits}/validation",
        f"run.folder={tmp_path}",
        "run.name=started",
        "backbone.init=hf://lab/net",
        "train.max_steps=1",
        "eval.every_epochs=0",
    )
    done = command("train", "digits_demo", *settings, "--nproc", 2)
    assert done.code == 0, done.err
    assert f"tensors of the backbone match those of hf://lab/net@{pushed}" in done.err
    run = RunFolder(tmp_path / "started")
    assert run.read_config().backbone.init == "hf://lab/net"
    texts = [path for path in run.path.rglob("*") if path.is_file()]
    assert not [path for path in texts if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--push", "net"), "--push: 'net' is not the name of a repository"),
        (("--push", "lab/net", "--format", "onnx"), "--push: uploads the format hf"),
        (("--private",), "--private: has no effect without --push"),
    ],
)
def test_wrong_options_are_refused_before_the_export(
    command, straight_run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = command("export", straight_run, *options)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "net").exists()


def test_an_export_that_cannot_be_uploaded_is_kept(
    command, straight_run, hub: HubServer, tmp_path: Path
) -> None:
    hub.close()
    done = command("export", straight_run, "--push", "lab/net")
    assert done.code == 2
    assert "the hub cannot be reached" in done.err
    assert "The export is kept in net" in done.err
    assert "Traceback" not in done.err
    assert (tmp_path / "net" / "model.safetensors").is_file()
