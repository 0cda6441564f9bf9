import subprocess
import sys
from importlib import metadata

import pytest
from commands import run

HEAVY = ("torch", "deepspeed", "cv2", "nvidia", "sklearn", "timm")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['all4one', '--help']\n"
        "from launch.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"loaded = sorted(m for m in {HEAVY!r} if m in sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verify-resume" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["train"],
        ["resume"],
        ["eval"],
        ["export"],
        ["embed"],
        ["verify-resume"],
        ["config", "show"],
        ["data", "build"],
        ["submit"],
        ["status"],
        ["logs"],
        ["cancel"],
        ["doctor"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.code == 0, done.out
    assert "Usage" in done.out


def test_the_version_is_that_of_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"all4one {metadata.version('all4one')}\n")


def test_looking_at_runs_loads_nothing_heavy() -> None:
    code = (
        "import sys, launch.status.tables, launch.status.suspect_nodes, launch.slurm.logs, launch.slurm.job, "
        "launch.doctor.examination\n"
        f"loaded = sorted(m for m in {HEAVY!r} if m in sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_config_show_says_where_values_come_from() -> None:
    done = run("config", "show", "cifar100", "optim.lr=0.5")
    assert done.code == 0, done.out
    cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in done.out.splitlines()]
    rows = {row[0]: tuple(row[1:]) for row in cells if len(row) == 3}
    assert rows["optim.lr"] == ("0.5", "command line")
    assert rows["train.epochs"] == ("1000", "cifar10.yaml")
    assert rows["train.precision"] == ("bf16", "base.yaml")
    assert rows["method.temperature"] == ("0.2", "default")
    assert rows["data.train"] == ("data/cifar100/train", "cifar100.yaml")
