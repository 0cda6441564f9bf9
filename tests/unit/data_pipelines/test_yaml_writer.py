"""What is written is read as the same by readers of YAML 1.1 and 1.2."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.yaml_reader import parse_yaml
from data_pipelines.yaml_writer import dump_yaml

MISREAD = [
    *(
        "1e5",
        "12e4567",
        "1.5",
        ".5",
        "3.",
        "+1",
        "-0",
        "08",
        "0123",
        "0123.5",
        "0o17",
        "0x1F",
        "0b11",
        "1_000",
    ),
    *("1:30", "190:20:30.15", ".inf", "-.INF", ".nan", "yes", "No", "on", "Off", "y", "N", "true", "FALSE"),
    *("~", "null", "NULL", "", "2026-11-28", "=", "<<"),
]
"""Texts that the core schema of YAML 1.2, or the types of YAML 1.1 (https://yaml.org/type/), take for another type."""


@pytest.mark.parametrize("text", MISREAD)
def test_text_that_a_reader_may_take_for_something_else_has_quotes(text: str) -> None:
    assert dump_yaml({"a": text}) == f"a: '{text}'\n"
    if text:  # an empty key has a form of its own
        assert dump_yaml({text: 1}) == f"'{text}': 1\n"


@pytest.mark.parametrize("text", ["1e", "e5", "12h", "1-00:00:00", "END", "a b", "v1.5", "nodes", "./08"])
def test_other_text_needs_none(text: str) -> None:
    assert dump_yaml({"a": text}) == f"a: {text}\n"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_both_readers_read_what_was_written(value: Any) -> None:
    text = dump_yaml({"a": value})
    assert parse_yaml(text) == yaml.safe_load(text) == {"a": value}
