"""Exports on a stand-in for the hub: the real library uploads them, and they are loaded as others load them."""

from pathlib import Path

import pytest
import timm
import torch
from hub_server import READ_TOKEN, TOKEN, HubServer
from trained_runs import NARROW, make_run, sized

import all4one
from data_pipelines.errors import UserError
from trainer.exports.export import export_backbone
from trainer.exports.hub_upload import require_target, upload_folder
from trainer.inference.loaded_backbones import load_backbones
from trainer.networks.hub_weights import HubAddress

RESNET = ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=imagenet", *sized(64))
VIT = ("backbone.name=test_vit", *sized(48))
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture
def token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    return TOKEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as an export writes it, without a network that could be loaded."""
    path = tmp_path / "net"
    path.mkdir()
    (path / "README.md").write_text("---\nlibrary_name: torchvision\nlicense: mit\n---\n# Net\n")
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [NARROW, RESNET, VIT])
def test_what_is_uploaded_is_what_is_loaded(token, hub, tmp_path, images_for, overrides) -> None:
    run, method = make_run(tmp_path / "run", *overrides)
    path, _ = export_backbone(
        run.path, tmp_path / "net", format_name="hf", license="mit", repository="lab/net"
    )
    found = upload_folder(path, "lab/net", private=False)
    assert found.url == f"{hub.url}/lab/net"
    assert 'all4one.load_backbone("hf://lab/net")' in (path / "README.md").read_text()

    images = images_for(load_backbones(run.path).recipe)
    with torch.no_grad():
        wanted = method.evaluation_backbones()["online"].to(memory_format=torch.channels_last)(images)
        for address in ("hf://lab/net", str(found.address)):
            loaded = all4one.load_backbone(address)
            assert torch.equal(loaded.cpu()(images), wanted)
        assert (loaded.name, loaded.checkpoint) == ("exported", "step_00000003")
        if overrides is not NARROW:
            theirs = timm.create_model("hf-hub:lab/net", pretrained=True, num_classes=0).eval()
            torch.testing.assert_close(theirs(images), wanted, rtol=1e-5, atol=1e-5)


def test_an_upload_is_one_commit_of_all_files(token, hub, folder) -> None:
    found = upload_folder(folder, "lab/net", private=True)
    model = hub.models["lab/net"]
    assert (model.private, model.summaries) == (True, ["initial commit", "Upload a backbone with all4one"])
    assert model.head == found.address.revision
    assert model.files().keys() > FILES
    assert all(model.files()[name] == (folder / name).read_bytes() for name in FILES)

    (folder / "model.safetensors").write_bytes(b"newer weights")
    again = upload_folder(folder, "lab/net", private=True)
    assert len(model.commits) == 3
    assert model.commits[found.address.revision]["model.safetensors"] == b"weights"
    assert model.commits[again.address.revision]["model.safetensors"] == b"newer weights"
    assert again.address == HubAddress("lab/net", model.head)


def test_a_model_is_public_unless_asked_otherwise(token, hub, folder) -> None:
    upload_folder(folder, "lab/net", private=False)
    assert not hub.models["lab/net"].private


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net", "'net' is not the name of a repository"),
        ("lab/net/more", "is not the name of a repository"),
        ("lab/net.git", "is not the name of a repository"),
        ("https://huggingface.co/lab/net", "is not the name of a repository"),
        ("datasets/lab/net", "is one of the hub's datasets, not a model"),
        ("spaces/lab/net", "is one of the hub's spaces, not a model"),
    ],
)
def test_a_bad_name_is_refused_before_the_export(token, hub, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        require_target(name)
    assert "ORG/NAME" in str(error.value.fix)
    assert hub.requests == []


def test_without_a_token_the_message_tells_how_to_log_in(hub) -> None:
    with pytest.raises(UserError, match=r"(?s)there is no token.*hf auth login.*HF_TOKEN"):
        require_target("lab/net")
    assert hub.requests == []


def test_a_login_of_the_library_is_found(hub, tmp_path: Path) -> None:
    (tmp_path / "hugging_face").mkdir()
    (tmp_path / "hugging_face" / "token").write_text(TOKEN)
    require_target("lab/net")


def refused(folder: Path, repository: str = "lab/net", *, private: bool = False) -> UserError:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=f"The export is kept in {folder}") as error:
        upload_folder(folder, repository, private=private)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert f"hf upload {repository} {folder}" in str(error.value.fix)
    assert "\n" not in error.value.what
    assert ".." not in str(error.value)
    assert TOKEN not in str(error.value)
    return error.value


def test_a_token_that_may_not_write_there(token, hub, folder, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    for _ in range(2):  # the repository is missing, then it exists
        assert "your token may not write there (You have read access" in refused(folder).what
        hub.publish("lab/net", {})


def test_a_token_that_the_hub_does_not_know(token, hub, folder, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    error = refused(folder)
    assert "the hub does not accept your token" in error.what
    assert "hf_of_nobody" not in str(error)


def test_a_public_repository_is_not_taken_for_a_private_one(token, hub, folder) -> None:
    hub.publish("lab/net", {})
    error = refused(folder, private=True)
    assert "the repository exists and is public" in error.what
    assert "--private" in str(error.fix)
    assert len(hub.models["lab/net"].commits) == 2


def test_a_model_of_another_library_is_not_overwritten(token, hub, folder) -> None:
    card = b"---\nlibrary_name: transformers\n---\n"
    hub.publish("lab/net", {"README.md": card})
    assert "the repository holds a model of transformers" in refused(folder).what
    assert hub.models["lab/net"].files()["README.md"] == card


def test_a_license_that_the_hub_does_not_know(token, hub, folder) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("mit", "mine"))
    error = refused(folder)
    assert 'the hub refuses the export: Invalid metadata in README.md. "license" must be one of' in error.what
    assert hub.models["lab/net"].files().keys() == {".gitattributes"}


def test_a_hub_that_cannot_be_reached(token, hub, folder, monkeypatch) -> None:
    hub.close()
    assert "the hub cannot be reached: [Errno 111] Connection refused" in refused(folder).what
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in refused(folder).what


@pytest.mark.parametrize(("status", "fix"), [(500, "try again later"), (409, "solve this on the hub")])
def test_a_hub_that_fails_in_the_middle(token, hub, folder, status: int, fix: str) -> None:
    hub.fault = lambda request: (status, "") if request.path.endswith("/commit/main") else None
    error = refused(folder)
    assert f"the hub refuses the upload with status {status}" in error.what
    assert fix in str(error.fix)
