"""Fixtures of all tests: the optional real data, and functions run as several ranks."""

import gc
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
