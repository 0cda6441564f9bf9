"""docs/adding_a_method.md does what it says: its files and commands, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import Runs

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "adding_a_method.md").read_text()
FILES = dict(re.findall(r"^\*\*`([^`]+)`\*\*\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the page's reader has, with the page's files."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("data_pipelines", "trainer", "launch", "configs", "tests"):
        shutil.copytree(ROOT / part, copy / part)  # with the bytecode, which takes seconds to make
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in FILES.items():
        file = copy / name
        assert not file.exists(), f"{name} is there already"
        file.write_text(text)
    return copy


def test_the_page_has_one_file_for_the_method_one_recipe_and_one_test() -> None:
    assert [Path(name).parent.as_posix() for name in FILES] == [
        "trainer/methods",
        "configs",
        "tests/unit/trainer/methods",
    ]
    assert COMMANDS


def test_the_commands_of_the_page_test_the_method_and_train_it_for_three_steps(checkout: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout)}
    for command in COMMANDS:
        done = subprocess.run(
            command,
            shell=True,
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
    runs = Runs(checkout / "runs", checkout / "data" / "digits")
    trained = [record for record in runs.metrics("three_steps") if record["kind"] == "train"]
    assert [record["step"] for record in trained] == [1, 2, 3]
    assert all(0 < record["alignment"] < 4 and -8 < record["uniformity"] < 0 for record in trained)
    assert trained[0]["loss"] != trained[2]["loss"]
    assert "projector.3.weight" in runs.tensors("three_steps")
