"""The commands of `examples/slurm` exist, with all of their options and settings."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from launch.cli import app
from trainer.config.schema import load_config

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "slurm"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
GIVEN = {"recipe": "digits_demo", "@": "--nodes 2 --gpus-per-node 8 --time 12h train.epochs=3"}


def commands(script: Path) -> list[list[str]]:
    """The words of each `all4one` command of a script, as its shell would pass them."""
    text = re.sub(r"\\\n", "", script.read_text())
    values = dict(re.findall(r"^(\w+)=(\S+)$", text, flags=re.MULTILINE)) | GIVEN
    text = re.sub(r'"\$@"', GIVEN["@"], text)
    text = re.sub(r"\$(\w+)", lambda match: values.get(match[1], match[0]), text)
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("all4one ")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_command_is_understood(script: Path) -> None:
    group = typer.main.get_command(app)
    found = commands(script)
    assert len(found) > 4
    for name, *arguments in found:
        assert "$" not in " ".join(arguments)
        command = group.commands[name]  # type: ignore[attr-defined]
        with command.make_context(name, arguments) as context:
            overrides = [one for one in context.params.get("overrides") or [] if one]
            load_config("digits_demo", overrides)


def test_the_page_names_every_script() -> None:
    assert SCRIPTS
    page = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"\| `(\w+\.sh)`", page)) == {script.name for script in SCRIPTS}
