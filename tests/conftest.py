"""Fixtures of all tests: the optional real data, and functions run as several ranks."""

import gc
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from hypothesis import settings
from rank_processes import run_as_ranks

DATA = Path(
    os.environ.get("ALL4ONE_TEST_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data")
)

# How long an example takes depends on what else the machine does.
settings.register_profile("all4one", parent=settings(), deadline=None)
settings.load_profile("all4one")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a job in the background of a shell ignores it, and so would every process that a test sends it to
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all modules of tests are imported: what they make lives to the end of the session


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images."""
    if not DATA.is_dir():
        pytest.skip(f"no test images in {DATA}: set ALL4ONE_TEST_DATA to their folder")
    return DATA


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own in memory, of the size that the test gives as the fixture's parameter."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Call a module-level function in N real processes of one gloo group; its results by rank."""

    def run(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
        folder = tmp_path / f"ranks{len(list(tmp_path.glob('ranks*')))}"
        folder.mkdir()
        return run_as_ranks(function, world_size, folder, args)

    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in for the Hugging Face hub, which the library uses in this process and in new ones, without a token."""
    server = HubServer()
    home = tmp_path / "hugging_face"
    settings = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HF_TOKEN_PATH": home / "token",
        "HF_HUB_DISABLE_XET": "1",  # the hub's own protocol of large files, which is not public
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    # the library has read the environment of this process already
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    yield server
    server.close()
