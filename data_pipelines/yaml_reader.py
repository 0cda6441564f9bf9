"""YAML as its writers mean it: text stays as typed, numbers are decimal, and no key is given twice.

PyYAML reads YAML 1.1, where `0123` is 83, `1:30` is 90, `yes` is true and `1e5` is text. The last of two equal keys
silently wins. Here, scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3), and
numbers remember their text for settings that are text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from data_pipelines.errors import UserError


class TypedInt(int):
    """A whole number that remembers how it was typed."""

    text: str

    def __new__(cls, value: int, text: str) -> "TypedInt":
        """Make the number that a text stands for."""
        made = super().__new__(cls, value)
        made.text = text
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.text


class TypedFloat(float):
    """A number that remembers how it was typed."""

    text: str

    def __new__(cls, value: float, text: str) -> "TypedFloat":
        """Make the number that a text stands for."""
        made = super().__new__(cls, value)
        made.text = text
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.text


class TypedWord(str):
    """A word such as `yes` or `off` that was typed without quotes. It is text, unless a setting takes a truth value."""

    __slots__ = ()

    @property
    def truth(self) -> bool:
        """The truth value that the word has in YAML 1.1."""
        return self.lower() in ("yes", "on")


# libyaml is several times faster. PyYAML for some platforms comes without it.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Reader(_Parser):
    """Reads one document by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (first := seen.setdefault(key.value, key)) is not key:
                lines = f"in line {first.start_mark.line + 1} and in line {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice, {lines}", key.start_mark
                )
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def _whole(reader: _Reader, node: yaml.ScalarNode) -> TypedInt:
    return TypedInt(int(node.value), node.value)


def _number(reader: _Reader, node: yaml.ScalarNode) -> TypedFloat:
    return TypedFloat(float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")), node.value)


def _word(reader: _Reader, node: yaml.ScalarNode) -> TypedWord:
    return TypedWord(node.value)


def _truth(reader: _Reader, node: yaml.ScalarNode) -> bool:
    return str(node.value).lower() == "true"


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
    ("word", r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "yYnNoO"),
):
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Reader.add_constructor("tag:yaml.org,2002:int", _whole)
_Reader.add_constructor("tag:yaml.org,2002:float", _number)
_Reader.add_constructor("tag:yaml.org,2002:bool", _truth)
_Reader.add_constructor("tag:yaml.org,2002:word", _word)


def read_yaml(path: Path, *, fix: str = "correct the file") -> Any:
    """Read a YAML file.

    Args:
        path: the file, in UTF-8.
        fix: what the user can do if it is damaged.

    Raises:
        UserError: the file cannot be read, is not valid, or gives a key twice.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, fix=fix) from None
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text at byte {error.start}", where=path, fix=fix) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"is not valid YAML: {problem_of(error)}", where=path, fix=fix) from None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError: it is not valid, or gives a key twice.
    """
    try:
        return yaml.load(text, _Reader)
    except (ValueError, TypeError) as error:  # such as a number of 10,000 digits, or a list as a key
        raise yaml.YAMLError(str(error)) from error


def problem_of(error: Exception) -> str:
    """Return a YAML error in one line, with the place where it is."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{error.problem or error.context}{place}"
