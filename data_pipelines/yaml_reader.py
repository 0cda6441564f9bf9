"""YAML as its writers mean it: text stays as typed, numbers are decimal, and no key is given twice.

PyYAML reads YAML 1.1, where `0123` is 83, `1:30` is 90, `yes` is true and `1e5` is text. The last of two equal keys
silently wins. Here, scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2, section 10.3), except
that only decimal numbers without leading zeros are numbers: `0123`, `0o17` and `0x1F` are text. Numbers remember their
text for settings that are text. Keys are always text.
"""

import re
from collections.abc import Iterator
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
    """A word such as `yes`, `off` or `True` that was typed without quotes. It is text, unless a setting takes a truth
    value."""

    __slots__ = ()

    @property
    def truth(self) -> bool:
        """The truth value that the word has in YAML 1.1."""
        return self.lower() in ("yes", "on", "true")


# libyaml is several times faster. PyYAML for some platforms comes without it.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_MERGE = "tag:yaml.org,2002:merge"


class _Reader(_Parser):
    """Reads one document by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def get_single_node(self) -> yaml.Node | None:
        root: yaml.Node | None = super().get_single_node()
        # After a merge, a mapping has keys that were not typed in it, so the keys are checked before.
        mappings = list(_mappings(root, {}))
        for mapping in mappings:
            mapping.value = [(_text_key(key), value) for key, value in mapping.value]
            _refuse_repeated_keys(mapping)
        for mapping in mappings:
            _merge(mapping)
        return root


def _mappings(node: yaml.Node | None, is_open: dict[int, bool]) -> Iterator[yaml.MappingNode]:
    """Yield each mapping of a document once, in the order in which they begin.

    Args:
        node: where to begin.
        is_open: for each node that was met, whether it is still being walked through. It is updated.

    Raises:
        ConstructorError: a list or a mapping contains itself.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return
    if id(node) in is_open:
        if is_open[id(node)]:
            raise yaml.constructor.ConstructorError(None, None, "contains itself", node.start_mark)
        return
    is_open[id(node)] = True
    if isinstance(node, yaml.MappingNode):
        yield node
    for item in node.value:
        for inner in item if isinstance(item, tuple) else (item,):
            yield from _mappings(inner, is_open)
    is_open[id(node)] = False


def _text_key(key: yaml.Node) -> yaml.Node:
    """Return a key that is read as the text that was typed."""
    if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
        return key
    return yaml.ScalarNode("tag:yaml.org,2002:str", key.value, key.start_mark, key.end_mark)


def _refuse_repeated_keys(mapping: yaml.MappingNode) -> None:
    seen: dict[str, yaml.Node] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if (first := seen.setdefault(key.value, key)) is not key:
            lines = f"in line {first.start_mark.line + 1} and in line {key.start_mark.line + 1}"
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} is given twice, {lines}", key.start_mark
            )


def _merge(mapping: yaml.MappingNode) -> None:
    """Replace each `<<` by the keys that it merges. Keys of the mapping itself count first, then the earliest merged.

    PyYAML compares merged keys by identity, so that the value of a key depends on its length.
    """
    if not any(key.tag == _MERGE for key, _ in mapping.value):
        return
    merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in mapping.value:
        if key.tag != _MERGE:
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "`<<` must name another mapping, or a list of them", key.start_mark
                )
            _merge(source)
            for pair in source.value:
                merged.setdefault(pair[0].value if isinstance(pair[0], yaml.ScalarNode) else pair[0], pair)
    own = [pair for pair in mapping.value if pair[0].tag != _MERGE]
    for key, _ in own:
        merged.pop(key.value if isinstance(key, yaml.ScalarNode) else key, None)
    mapping.value = [*merged.values(), *own]


def _whole(reader: _Reader, node: yaml.ScalarNode) -> TypedInt:
    return TypedInt(int(node.value), node.value)


def _number(reader: _Reader, node: yaml.ScalarNode) -> TypedFloat:
    return TypedFloat(float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")), node.value)


def _word(reader: _Reader, node: yaml.ScalarNode) -> TypedWord:
    return TypedWord(node.value)


def _truth(reader: _Reader, node: yaml.ScalarNode) -> bool | TypedWord:
    """Return a truth value. Of `True` and `TRUE` the text is kept, which a truth value could not give back."""
    return str(node.value) == "true" if node.value.islower() else TypedWord(node.value)


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
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_yaml(text)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, fix=fix) from None
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text at byte {error.start}", where=path, fix=fix) from None
    except yaml.YAMLError as error:
        raise UserError(f"is not valid YAML: {problem_of(error, text)}", where=path, fix=fix) from None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError: it is not valid, or gives a key twice.
    """
    try:
        return yaml.load(text, _Reader)
    # Such as a number of 10,000 digits, a list as a key, or 3,000 lists inside of each other.
    except (ValueError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error


def parse_scalar(text: str) -> Any:
    """Return the value of a text that is one plain scalar.

    Text stays text. Comments, `a: b`, a leading `- ` and everything else that needs a document have no meaning here.
    """
    plain, reader = text.strip(), _Reader("")
    tag = reader.resolve(yaml.ScalarNode, plain, (True, False))
    if tag in (reader.DEFAULT_SCALAR_TAG, _MERGE):
        return text
    try:
        return reader.construct_object(yaml.ScalarNode(tag, plain))
    except ValueError:  # a number of more digits than Python converts
        return text


def problem_of(error: Exception, text: str = "") -> str:
    """Return an error in a YAML text in one line, with the place where it is."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark
    if mark is None:
        return str(error.problem or error.context)
    place = f"(line {mark.line + 1}, column {mark.column + 1})"
    line = next(iter(text.splitlines()[mark.line : mark.line + 1]), "")
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"a tab in the indentation, where YAML takes only spaces {place}"
    return f"{error.problem or error.context} {place}"
