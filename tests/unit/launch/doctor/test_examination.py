"""Checks of `all4one doctor`, each against a machine that is as it should be and one that is not."""

import json
import os
import resource
import socket
import subprocess
import time
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.doctor import all_reduce, machine, node_rates, packages, slurm_checks
from launch.doctor.examination import CHECKS, Check, examine, result
from launch.doctor.findings import OK, PROBLEM, WARNING, Finding, ok

CONFIG = """\
Configuration data as of 2026-01-01T00:00:00
AuthInfo                = cred_expire=5
ClusterName             = tests
JobRequeue              = {requeue}
KillWait                = 30 sec
MinJobAge               = 300 sec
PreemptType             = preempt/partition_prio
SlurmctldParameters     = {parameters}
SlurmdTimeout           = {timeout} sec
SLURM_VERSION           = 22.05.8
"""


def crashes(_: Path) -> list[Finding]:
    import os

    os.abort()


def raises(_: Path) -> list[Finding]:
    raise OSError("the disk is away")


def refuses(_: Path) -> list[Finding]:
    raise UserError("the driver is too old", fix="install a newer one")


def hangs(_: Path) -> list[Finding]:
    time.sleep(60)
    return []


def chatters(_: Path) -> list[Finding]:
    print("[]")
    return ok("chatter", "done")


@pytest.mark.parametrize(
    ("function", "seconds", "level", "said"),
    [
        ("crashes", 20, PROBLEM, "SIGABRT"),
        ("raises", 20, PROBLEM, "OSError: the disk is away"),
        ("refuses", 20, PROBLEM, "the driver is too old"),
        ("hangs", 1, PROBLEM, "no answer within 1 s"),
        ("chatters", 20, OK, "done"),
    ],
)
def test_a_check_that_fails_in_any_way_is_a_line_of_the_page(
    function: str, seconds: float, level: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    (finding,) = result(Check("trial", f"test_examination:{function}", seconds), tmp_path)
    assert finding.level == level
    assert said in finding.what


def test_a_problem_is_exit_code_1_and_stands_on_the_page_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    good, bad = (Check(name, f"test_examination:{name}") for name in ("chatters", "raises"))
    assert examine(tmp_path, as_json=False, checks=[good]) == 0
    assert "1 ok" in capsys.readouterr().out
    assert examine(tmp_path, as_json=False, checks=[good, bad]) == 1
    assert "→ run this command to see the full error" in capsys.readouterr().out
    assert examine(tmp_path, as_json=True, checks=[good, bad]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [finding["level"] for finding in said["findings"]] == [OK, PROBLEM]


def test_every_check_is_there() -> None:
    modules = {
        module.__name__: module for module in (all_reduce, machine, node_rates, packages, slurm_checks)
    }
    for check in CHECKS:
        module, _, function = check.function.partition(":")
        assert callable(getattr(modules[module], function))


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_here_packages_decoders_and_disks_work(tmp_path: Path) -> None:
    for check in (
        packages.packages,
        packages.jpegs,
        machine.run_folder,
        machine.locks,
    ):
        (finding,) = check(tmp_path / "not" / "there" / "yet")
        assert finding.level == OK, finding
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing_and_of_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requires", lambda _: ["numpy<1", "pyyaml"])
    (finding,) = packages.packages(Path())
    assert (finding.level, "numpy" in finding.what, "pyyaml" in finding.what) == (WARNING, True, False)
    monkeypatch.setattr(packages, "requires", lambda _: ["numpy", "no-such-package"])
    (finding,) = packages.packages(Path())
    assert (finding.level, finding.what) == (PROBLEM, "missing: no-such-package")


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands of SLURM of which `scontrol` prints something."""
    monkeypatch.setenv("PATH", str(tmp_path))  # real commands of SLURM must not be found
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setattr(slurm_checks, "ANSWER_SECONDS", 5.0)

    def say(text: str, code: int = 0, absent: str = "") -> dict[str, str]:
        for command in {*slurm_checks.COMMANDS, "sacct"} - {absent}:
            script = tmp_path / command
            stream = "&2" if code else "&1"
            script.write_text(f"#!/bin/sh\ncat >{stream} <<'EOF'\n{text}EOF\nexit {code}\n")
            script.chmod(0o755)
        return levels(slurm_checks.slurm_settings(tmp_path))

    return say


def test_settings_of_a_cluster_are_said_with_what_they_mean(slurm_says, tmp_path: Path) -> None:
    found = slurm_says(CONFIG.format(requeue=1, parameters="preempt_send_user_signal", timeout=300))
    assert set(found.values()) == {OK}
    said = {finding.check: finding.what for finding in slurm_checks.slurm_settings(tmp_path)}
    assert "22.05.8" in said["SLURM"]
    assert said["KillWait"].startswith("30 s")
    assert said["cred_expire"].startswith("5 s")
    found = slurm_says(CONFIG.format(requeue=0, parameters="(null)", timeout=0))
    assert {found[name] for name in ("JobRequeue", "preemption", "SlurmdTimeout")} == {WARNING}


def test_a_controller_that_is_down_commands_without_a_cluster_and_missing_ones_are_told_apart(
    slurm_says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm_says("Unable to contact slurm controller (connect failure)\n", 1) == {"SLURM": PROBLEM}
    assert slurm_says("fatal: Could not establish a configuration source\n", 1) == {"SLURM": WARNING}
    (tmp_path / "srun").unlink()
    assert slurm_says("", absent="srun") == {"SLURM": PROBLEM}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert levels(slurm_checks.slurm_settings(tmp_path)) == {"SLURM": OK}


def test_a_disk_that_is_read_only_or_nearly_full_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LITTLE_DISK", 2**80)
    assert levels(machine.run_folder(tmp_path)) == {"run folder": WARNING}
    read_only = ["mount", "--types", "tmpfs", "--options", "ro", "tmpfs", tmp_path]
    if subprocess.run(read_only, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        (finding,) = machine.run_folder(tmp_path)
        kind, place = machine._mount(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert (finding.level, "Read-only" in finding.what) == (PROBLEM, True)
    assert (kind, place) == ("tmpfs", str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "level"),
    [("nfs4", OK), ("fuse.beegfs", OK), ("lustre", OK), ("ext4", WARNING), ("overlay", WARNING)],
)
def test_where_there_is_slurm_a_disk_of_this_machine_alone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str
) -> None:
    monkeypatch.setattr(machine, "_mount", lambda _: (kind, "/"))
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/sbatch")
    assert levels(machine.shared(tmp_path)) == {"file system": level}


def test_few_open_files_and_little_shared_memory_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LITTLE_SHM", 2**80)
    assert levels(machine.shared_memory(Path())) == {"/dev/shm": WARNING}
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        assert levels(machine.limits(Path()))["open files"] == WARNING
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_host_name_that_leads_nowhere_or_home_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/sbatch")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert levels(machine.network(Path())) == {"ports": OK, "host name": WARNING}
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    assert levels(machine.network(Path()))["host name"] == PROBLEM
