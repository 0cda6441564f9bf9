"""Hook of mkdocs that writes the reference pages from the code, so that nothing generated is committed.

`reference/cli.md` comes from the tree of commands, `reference/settings.md` from the pydantic schema.
"""

import re
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.models import ParameterInfo

from launch.cli import app
from trainer.config.descriptions import is_choice_of_types, limits, takes, written
from trainer.config.schema import Config
from trainer.methods import available

CLI_INTRO = """\
# Commands

Every command prints its own help with `--help`. `all4one --version` prints the version. `CONFIG` is the path of a
recipe or the name of a shipped one. `RUN` is the folder of a run. `KEY=VALUE` overrides a setting of the recipe. The
[settings](settings.md) are on their own page.

A command exits with code 0 when it succeeds and with code 2 when the input is wrong. The message names the problem, the
place and the fix. Ctrl-C ends a training run with code 130, after a checkpoint.
"""

SETTINGS_INTRO = """\
# Settings

A recipe is a YAML file with these sections. An unknown key is an error that names the nearest valid key. Any setting
can be overridden on the command line, for example `all4one train cifar10 optim.lr=0.5`. The command
`all4one config show RECIPE` prints the resolved value of every setting and the file that it comes from. Defaults on
this page are those of the schema. A recipe may set other values.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in (("reference/cli.md", cli_page()), ("reference/settings.md", settings_page())):
        files.append(File.generated(config, path, content=text))
    return files


# -- commands


def cli_page() -> str:
    """The tree of commands as Markdown."""
    return "\n".join([CLI_INTRO, *_command("all4one", typer.main.get_command(app))])


def _command(name: str, command: Any) -> Iterator[str]:
    """A command's section, or the sections of a group's commands. The classes of the tree are typer's own business."""
    children: Mapping[str, Any] = getattr(command, "commands", {})
    for child in sorted(children):
        yield from _command(f"{name} {child}", children[child])
    if children:
        return
    hints = get_type_hints(command.callback, include_extras=True)
    parameters = [
        _parameter(p, hints.get(p.name)) for p in command.params if p.name != "help" and not p.hidden
    ]
    options = [] if all(p.is_argument for p in parameters) else ["[OPTIONS]"]
    usage = " ".join([name, *options, *(p.usage for p in parameters if p.is_argument)])
    about, _, example = command.help.partition("Example: ")
    yield f"## {name}\n\n{_paragraphs(about)}\n\n```\n{usage}\n```\n\nExample:\n\n```\n{example.strip()}\n```\n"
    for title, wanted in (("argument", True), ("option", False)):
        rows = [p for p in parameters if p.is_argument is wanted]
        if rows:
            yield f"| {title} | value | default | description |\n| --- | --- | --- | --- |"
            yield from (p.row() for p in rows)
            yield ""


class Parameter(NamedTuple):
    """An argument or option as the page shows it."""

    is_argument: bool
    names: str
    usage: str
    value: str
    default: str
    description: str

    def row(self) -> str:
        """A row of the table."""
        return _row(self.names, self.value, self.default, self.description)


def _parameter(parameter: Any, hint: Any) -> Parameter:
    """What the tree says of a parameter, with the type and the bounds that its annotation names."""
    annotation, info = _unwrap(hint)
    is_argument = parameter.param_type_name == "argument"
    is_flag = annotation is bool
    label = parameter.metavar or parameter.name.upper()
    bounds = [Ge(info.min), Le(info.max)] if info else []
    named = _code(label) if parameter.metavar and not is_argument else ""
    return Parameter(
        is_argument=is_argument,
        names=_code(label if is_argument else ", ".join([*parameter.opts, *parameter.secondary_opts])),
        usage=label if parameter.required or label.startswith("[") else f"[{label}]",
        value="" if is_flag else f"{named} {limits(bounds)}" if named else takes(annotation, bounds),
        default="required" if parameter.required else _code(_default(parameter, is_flag)),
        description=parameter.help or "",
    )


def _default(parameter: Any, is_flag: bool) -> object:
    """What a parameter is if it is not given; empty where that is nothing."""
    if is_flag:
        return parameter.opts[0] if parameter.default else "".join(parameter.secondary_opts)
    return parameter.default.value if isinstance(parameter.default, Enum) else parameter.default


def _unwrap(hint: Any) -> tuple[Any, ParameterInfo | None]:
    """The bare type of an annotation, and what typer is told about it."""
    info = None
    if get_origin(hint) is Annotated:
        info = next((m for m in hint.__metadata__ if isinstance(m, ParameterInfo)), None)
        hint = get_args(hint)[0]
    if get_origin(hint) in (types.UnionType, Union):
        hint = next(t for t in get_args(hint) if t is not type(None))
    return hint, info


# -- settings


def settings_page() -> str:
    """Every setting, a section for each part of the schema, and one for each method's own settings."""
    lines = [SETTINGS_INTRO, *_model("", Config, "Top level")]
    for name, method in sorted(available().items()):
        lines += _model("method", method, f"method: {name}")
    return "\n".join(lines)


def _model(prefix: str, model: type[BaseModel], title: str = "") -> Iterator[str]:
    """A section for a settings model, followed by the models that its fields hold."""
    own, nested = [], []
    earlier = _earlier_names(model)
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        inner, is_list = _inner_model(field.annotation)
        has_section = inner is not None and bool(inner.model_fields)
        if not has_section or is_choice_of_types(field.annotation):
            own.append(_setting(key, field, earlier.get(name, "")))
        if has_section and key != "method":  # each method has a section of its own
            nested.append((f"{key}.N" if is_list else key, inner))
    yield f"## {title or prefix}\n\n{_paragraphs(model.__doc__)}\n"
    if own:
        yield "| setting | type | default | description |\n| --- | --- | --- | --- |"
        yield from own
        yield ""
    for key, inner in nested:
        yield from _model(key, inner, f"{title} · {key}" if title.startswith("method: ") else "")


def _setting(key: str, field: FieldInfo, earlier_name: str) -> str:
    required = field.is_required()
    default = (
        "required" if required else _code(written(field.get_default(call_default_factory=True), digits=4))
    )
    kind = takes(field.annotation, field.metadata)
    alias = f" Earlier name: {_code(earlier_name)}." if earlier_name else ""
    return _row(_code(key), kind, default, f"{field.description or ''}{alias}")


def _earlier_names(model: type[BaseModel]) -> dict[str, str]:
    """By today's name, the one that version 0.1 had and that is still accepted."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        found |= {today: first for first, today in vars(base).get("first_names", {}).items()}
    return found


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The settings model that a field holds, and whether it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is Annotated:
        return _inner_model(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return _inner_model(get_args(annotation)[0])[0], True
    if is_choice_of_types(annotation):
        return next((found for one in get_args(annotation) if (found := _inner_model(one))[0]), (None, False))
    return None, False


# -- both


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").strip().split("\n\n"))


def _code(value: object) -> str:
    return f"`{value}`" if value not in ("", None) else ""


def _row(*cells: str) -> str:
    """A row of a table. Bars are safe inside of backticks, and nowhere else."""
    parts = (re.split(r"(`[^`]*`)", " ".join(cell.split())) for cell in cells)
    safe = ("".join(p if p.startswith("`") else p.replace("|", "&#124;") for p in split) for split in parts)
    return f"| {' | '.join(safe)} |"
