import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import TypedFloat, TypedInt, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-12", -12),
        ("0123", "0123"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("1e5", 1e5),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("3.", 3.0),
        (".inf", float("inf")),
        ("-.inf", -float("inf")),
        ("yes", "yes"),
        ("off", "off"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("2026-11-28", "2026-11-28"),
        ("'12'", "12"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert isinstance(found, type(value))


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_remember_their_text_also_in_copies(number: float) -> None:
    text = yaml.safe_dump(number).split("\n")[0]
    for found in (
        parse_yaml(text),
        copy.deepcopy(parse_yaml(text)),
        pickle.loads(pickle.dumps(parse_yaml(text))),
    ):
        assert isinstance(found, TypedInt | TypedFloat)
        assert found == number
        assert found.text == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", (1, 3)),
        ("x:\n  y: 1\n  z: 2\n  y: 1\n", (2, 4)),
        ("- {k: 1,\n   k: 2}\n", (1, 2)),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path: Path, text: str, lines: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"given twice, in line {lines[0]} and in line {lines[1]}") as caught:
        read_yaml(path)
    assert caught.value.where == path


def test_merged_mappings_may_be_overridden() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\n", "line 2"),
        (b"a: \xff\n", "not UTF-8 text at byte 3"),
        (b"? [1]\n: 2\n", "not valid YAML"),
        (b"a: \x00\n", "not valid YAML"),
        (b"a: !!python/object:x {}\n", "not valid YAML"),
        (b"[" * 3000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_yaml_is_an_error_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_yaml(path)
    assert "\n" not in caught.value.what


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbftrain: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"train": 1}
