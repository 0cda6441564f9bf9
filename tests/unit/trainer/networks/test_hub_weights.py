"""Weights on the hub, read through the real library from a stand-in for the hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import READ_TOKEN, TOKEN, HubServer
from safetensors.torch import save

from data_pipelines.errors import UserError
from trainer.networks.backbones import BackboneSettings, build_backbone
from trainer.networks.hub_weights import HubAddress, download_weights, hub_address, local_weights
from trainer.networks.initial_weights import read_initial_weights

SETTINGS = BackboneSettings(name="resnet18", width=8, stem="half")
SIZE = 32


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits between its attempts."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_backbone(SETTINGS, SIZE).state_dict()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hf://lab/net", HubAddress("lab/net")),
        ("hf://lab/net.v1_a-b@refs/pr/1", HubAddress("lab/net.v1_a-b", "refs/pr/1")),
        ("hf://lab/net@14", HubAddress("lab/net", "14")),
    ],
)
def test_an_address_is_read_from_text_and_from_the_path_that_it_becomes(
    text: str, wanted: HubAddress
) -> None:
    assert hub_address(text) == hub_address(Path(text)) == wanted
    assert str(wanted) == text


@pytest.mark.parametrize(
    "place", ["runs/net", "/hf/net", "hf/net@14", "s3://lab/net", "shf://lab/net", Path("hf:net")]
)
def test_other_places_are_no_addresses(place: str | Path) -> None:
    assert hub_address(place) is None
    assert local_weights(place) == (Path(place), str(place))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://net", "'net' is not the name of a repository"),
        ("hf://lab/net/model.safetensors", "is not the name"),
        ("hf://lab/a--b", "is not the name of a repository: Cannot have --"),
        ("hf://lab/net@", "the revision after @ is empty"),
        ("hf://datasets/lab/net", "is one of the hub's datasets, not a model"),
    ],
)
def test_an_address_of_no_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        hub_address(Path(text))
    assert error.value.fix


def test_without_the_library_the_message_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"(?s)not installed.*pip install 'all4one\[hub\]'"):
        hub_address("hf://lab/net")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://lab/nothing", "there is no such model on the hub, or it is private"),
        ("hf://lab/secret", "there is no such model on the hub, or it is private"),
        ("hf://lab/net@v9", "the repository has no such revision"),
        ("hf://lab/empty", "has no file model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_cannot_be_read_is_named(hub: HubServer, address: str, message: str) -> None:
    hub.publish("lab/net", {"model.safetensors": b"1"})
    hub.publish("lab/empty", {"README.md": b"1"})
    hub.publish("lab/secret", {"model.safetensors": b"1"}, private=True)
    with pytest.raises(UserError, match=message) as error:
        local_weights(address)
    assert error.value.where == address
    assert error.value.fix


def test_a_private_model_is_read_with_the_token_of_the_library(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish("lab/secret", {"model.safetensors": b"1"}, private=True)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    file, shown = local_weights("hf://lab/secret")
    assert (file.read_bytes(), shown) == (b"1", f"hf://lab/secret@{commit}")


def test_a_model_that_needs_permission(hub: HubServer) -> None:
    hub.fault = lambda request: (403, "GatedRepo")
    with pytest.raises(UserError, match="access to this repository must be granted first"):
        local_weights("hf://lab/net")


def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("lab/net", {"model.safetensors": b"1"})
    (tmp_path / "hugging_face").write_text("a file where a folder belongs")
    with pytest.raises(UserError, match=r"(?s)cannot be downloaded.*check the disk of HF_HOME"):
        local_weights("hf://lab/net")


def test_a_revision_is_the_commit_that_was_asked_for(hub: HubServer) -> None:
    first = hub.publish("lab/net", {"model.safetensors": b"1"})
    second = hub.publish("lab/net", {"model.safetensors": b"2"})
    assert local_weights(f"hf://lab/net@{first}")[0].read_bytes() == b"1"
    assert download_weights(HubAddress("lab/net")).address.revision == second


def test_what_is_in_the_cache_needs_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.publish("lab/net", {"model.safetensors": b"1"})
    found = local_weights("hf://lab/net")
    asked = len(hub.requests)
    assert local_weights(f"hf://lab/net@{commit}") == found
    assert len(hub.requests) == asked
    hub.fault = lambda request: (503, "")
    assert local_weights("hf://lab/net") == found
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_weights("hf://lab/net") == found


def test_a_cached_pickle_is_found_without_a_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("lab/old", {"pytorch_model.bin": b"1"})
    found = local_weights("hf://lab/old")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_weights("hf://lab/old") == found


@pytest.mark.parametrize("reason", ["offline", "broken", "closed"])
def test_without_a_network_the_message_tells_how_to_download_before(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif reason == "broken":
        hub.fault = lambda request: (503, "")
    else:
        hub.close()
    with pytest.raises(UserError, match="the hub cannot be reached") as error:
        local_weights("hf://lab/net@v1")
    assert error.value.fix is not None
    assert "hf download lab/net model.safetensors --revision v1" in error.value.fix


def test_processes_that_ask_at_once_download_once(hub: HubServer) -> None:
    hub.publish("lab/net", {"model.safetensors": bytes(30_000_000)})
    code = (
        "import sys\n"
        "from trainer.networks.hub_weights import local_weights\n"
        "sys.stdin.read(1)\n"
        "file, shown = local_weights('hf://lab/net')\n"
        "assert file.read_bytes() == bytes(30_000_000)\n"
        "print(shown)\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
        )
        for _ in range(4)
    ]
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write(b"1")
        rank.stdin.flush()
    shown = {rank.communicate(timeout=120)[0] for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert len(shown) == 1
    downloads = [r for r in hub.requests if r.method == "GET" and r.path.startswith("/large/")]
    assert len(downloads) == 1


def test_a_run_starts_from_weights_of_another_project(hub: HubServer, tmp_path: Path) -> None:
    own, torch_file = weights(1), tmp_path / "file"
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in own.items()}}, torch_file)
    commits = {
        "lab/timm": hub.publish("lab/timm", {"model.safetensors": save(own)}),
        "lab/solo": hub.publish("lab/solo", {"pytorch_model.bin": torch_file.read_bytes()}),
    }
    for repository, commit in commits.items():
        settings = SETTINGS.model_copy(update={"init": f"hf://{repository}"})
        found = read_initial_weights(settings, SIZE)
        assert found.tensors.keys() == own.keys()
        assert all(value.equal(own[name]) for name, value in found.tensors.items())
        assert f"match those of hf://{repository}@{commit}" in found.report


def test_code_in_a_repository_does_not_run(hub: HubServer, tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": Bad()}, tmp_path / "file")
    hub.publish("lab/bad", {"pytorch_model.bin": (tmp_path / "file").read_bytes()})
    with pytest.raises(UserError, match="cannot be read as weights only"):
        read_initial_weights(SETTINGS.model_copy(update={"init": "hf://lab/bad"}), SIZE)
    assert not (tmp_path / "ran").exists()


def test_the_setting_keeps_the_address_as_it_is_written() -> None:
    settings = BackboneSettings.model_validate({"init": "hf://lab/net@v1"})
    assert settings.model_dump(mode="json")["init"] == "hf://lab/net@v1"
    assert BackboneSettings.model_validate({"init": "net.pth"}).init == Path("net.pth")
    with pytest.raises(ValueError, match="init must be a file, or hf://ORG/NAME"):
        BackboneSettings.model_validate({"init": "s3://lab/net"})


def test_a_token_is_in_no_message(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError) as error:
        local_weights("hf://lab/nothing")
    assert TOKEN not in str(error.value)
