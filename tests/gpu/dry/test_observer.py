"""The observer sees what a step should not do. Each fault is really done, on a device that does not exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from trainer.profiling.dry_run import library
from trainer.profiling.dry_run.library import build, stub_environment

ROOT = Path(__file__).resolve().parents[3]
FAULTS = Path(__file__).with_name("injected_faults.py")


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    environment = stub_environment(0, 2) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, FAULTS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("item", "value read"),
        ("float", "value read"),
        ("bool", "value read"),
        ("read by mask", "size depends on values"),
        ("write by mask", "size depends on values"),
        ("nonzero", "size depends on values"),
        ("masked_select", "size depends on values"),
        ("copy to host", "copy device to host"),
        ("copy to device", "copy host to device"),
        ("torch.tensor", "Python values copied"),
        ("new_tensor", "Python values copied"),
        ("device synchronized", "device synchronized"),
        ("event synchronized", "event synchronized"),
        ("stream synchronized", "stream synchronized"),
    ],
)
def test_every_wait_of_the_host_is_seen(seen: dict[str, list[str]], fault: str, kind: str) -> None:
    assert f"wait: {kind}" in seen[fault]


def test_a_mix_of_devices_is_seen(seen: dict[str, list[str]]) -> None:
    assert any(found.startswith("mix: ") for found in seen["index from host"])


@pytest.mark.parametrize("name", ["where", "topk", "number of host", "scalar of host", "copy in background"])
def test_what_does_not_wait_is_not_reported(seen: dict[str, list[str]], name: str) -> None:
    assert seen[f"clean: {name}"] == []


def test_a_machine_without_a_compiler_is_told_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(library, "user_cache_path", lambda _: tmp_path / "cache")
    with pytest.raises(UserError, match="needs a C compiler"):
        build()


def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken_cc"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setattr(library, "user_cache_path", lambda _: tmp_path / "cache")
    with pytest.raises(UserError, match="no such option") as raised:
        build()
    assert raised.value.where == str(broken)


def test_two_processes_build_the_stub_at_once(tmp_path: Path) -> None:
    code = "from trainer.profiling.dry_run.library import build; print(build())"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(paths) == 1
    assert Path(paths.pop()).stat().st_size > 0
