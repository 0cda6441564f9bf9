"""The help of every command ends with an example that the command accepts."""

import shlex
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer

from launch.cli import app

ROOT = typer.main.get_command(app)


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command and every group of the tree with its full name."""
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {child}", below)


COMMANDS = dict(commands("all4one", ROOT))


def parsed(words: list[str]) -> tuple[str, Any]:
    """The name of the command that would run, and its context, for a command line without `all4one`."""
    name, command, parent = "all4one", ROOT, None
    while hasattr(command, "commands"):
        parent = command.make_context(name, words, parent=parent)
        words = [*parent._protected_args, *parent.args]
        child, command, words = command.resolve_command(parent, words)
        name = f"{name} {child}"
    return name, command.make_context(name, words, parent=parent)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_of_the_command(name: str) -> None:
    about, _, example = (COMMANDS[name].help or "").rpartition("\n\nExample: ")
    assert about, "the help has no example"
    assert "\n" not in example.strip()
    program, *words = shlex.split(example)
    assert program == "all4one"
    runs, context = parsed(words)
    assert f"{runs} ".startswith(f"{name} ")
    assert not context.args


def test_an_example_with_an_unknown_option_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["train", "cifar10", "--processes", "2"])


SYNONYMS = (
    {"--out", "--output", "--output-file"},
    {"--json", "--format-json", "--as-json"},
    {"--nodes", "--num-nodes"},
    {"--nproc", "--processes", "--num-processes"},
    {"--overwrite", "--force"},
    {"--workers", "--num-workers"},
    {"--follow", "--wait"},
    {"--backbone", "--momentum"},
    {"--batch", "--batch-size"},
)
"""Names for one thing. All commands together use only one of each set."""


def test_one_thing_has_one_name_in_all_commands() -> None:
    options = [p for command in COMMANDS.values() for p in command.params if p.param_type_name == "option"]
    listed = {name for option in options if not option.hidden for name in option.opts}
    for names in SYNONYMS:
        assert len(names & listed) <= 1


def test_options_of_the_same_name_take_the_same_kind_of_value() -> None:
    kinds = defaultdict(set)
    for name, command in COMMANDS.items():
        hints = get_type_hints(command.callback) if command.callback else {}
        for option in command.params:
            # The nodes of a profile are a list, because it compares several numbers of them.
            if option.name in hints and (name, option.name) != ("all4one profile", "nodes"):
                hint = hints[option.name]
                kind = hint if isinstance(hint, type) else next(iter(get_args(hint)))
                for spelled in option.opts if option.param_type_name == "option" else ():
                    kinds[spelled].add(kind)
    kinds.pop("--format")  # the layout of weights, and an earlier name in another command
    assert len(kinds) > 50
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        (["eval", "RUN", "--epochs", "3"], "epochs"),
        (["eval", "RUN", "--learning-rates", "1,2"], "learning_rates"),
        (["export", "RUN", "--momentum"], "momentum"),
        (["submit", "CONFIG", "--wait"], "wait"),
        (["resume", "RUN", "--wait"], "wait"),
        (["config", "show", "CONFIG", "--format", "yaml"], "output"),
    ],
)
def test_earlier_names_are_accepted_and_not_listed(words: list[str], parameter: str) -> None:
    _, context = parsed(words)
    assert context.params[parameter]
    assert next(p for p in context.command.params if p.name == parameter).hidden
