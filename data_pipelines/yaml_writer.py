"""YAML that every reader understands in the same way."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Writer(yaml.SafeDumper):
    """Quotes each text that a reader of YAML 1.1 or 1.2 would take for something else.

    PyYAML quotes what its own reader would misread. That reader follows YAML 1.1, for which `1e5`, `08` and `0o17` are
    text, and it does not know that `y` is a truth value there.
    """

    def analyze_scalar(self, scalar: str) -> Any:
        """Return in which styles a text can be written. Only double quotes keep the line breaks of Unicode."""
        found: Any = super().analyze_scalar(scalar)
        if {"\x85", "\u2028", "\u2029"} & set(scalar):
            found.allow_flow_plain = found.allow_block_plain = False
            found.allow_single_quoted = found.allow_block = False
        return found


for _tag, _pattern, _first in (
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("bool", r"y|Y|n|N", "yYnN"),
):
    _Writer.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return nested values as a YAML document. Keys keep their order.

    Args:
        values: dictionaries, lists, texts, numbers, truth values and None.
    """
    text: str = yaml.dump(values, Dumper=_Writer, sort_keys=False, allow_unicode=True)
    return text
