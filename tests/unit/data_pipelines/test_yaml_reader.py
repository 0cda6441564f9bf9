import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import TypedFloat, TypedInt, parse_scalar, parse_yaml, read_yaml


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
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("FALSE", "FALSE"),
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
    ("text", "merged"),
    [
        ("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, y: 3, x: 4}\n", {"x": 4, "y": 3}),
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: *b\n", {"x": 2, "y": 3}),
        ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}\n", {"x": 1, "y": 2, "z": 3}),
        ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: *a, z: 3, <<: *b}\n", {"x": 1, "y": 2, "z": 3}),
        ("a: &a {long_key: 1}\nb: &b {long_key: 2}\nc: {<<: [*a, *b]}\n", {"long_key": 1}),
        ("a: &a {x: 1}\nb: {c: &c {<<: *a}}\nc: {<<: [*c]}\n", {"x": 1}),
    ],
)
def test_mappings_are_merged_over_several_steps(text: str, merged: dict[str, int]) -> None:
    """The mapping itself counts first, and then the earliest: https://yaml.org/type/merge.html"""
    assert parse_yaml(text)["c"] == merged


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: *a}", "a: &a {b: [{c: *a}]}", "a: &a {<<: *a}"])
def test_what_contains_itself_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="contains itself"):
        parse_yaml(text)


def test_what_is_named_twice_does_not_contain_itself() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: [*a, *a, {c: *a}]\n")["b"] == [{"x": 1}, {"x": 1}, {"c": {"x": 1}}]


@pytest.mark.parametrize("text", ["a: {<<: 1}", "a: {<<: [1]}", "a: {<<: null}"])
def test_a_merge_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="must name another mapping"):
        parse_yaml(text)


def test_a_key_that_is_given_twice_beside_a_merge_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="'y' is given twice, in line 2 and in line 2"):
        parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2, y: 3}\n")


def test_keys_are_text_as_typed() -> None:
    text = "1: {01: a, 1e5: b, 1.50: c}\nyes: a\ntrue: b\n~: c\n"
    assert parse_yaml(text) == {"1": {"01": "a", "1e5": "b", "1.50": "c"}, "yes": "a", "true": "b", "~": "c"}
    assert all(type(key) is str for key in parse_yaml(text))


@pytest.mark.parametrize(
    "text",
    ["# x", "- a", "a: b", "? a", "3 # x", "!!int 3", "&a 3", "*a", "[1", "| a", "<<", "9" * 5000, " a "],
)
def test_what_only_a_document_gives_a_meaning_is_text_in_a_scalar(text: str) -> None:
    assert parse_scalar(text) == text


@pytest.mark.parametrize("text", ["0", "1e5", "yes", "true", "~", "", "0123", ".inf", "2026-11-28", "x"])
def test_a_scalar_is_what_it_is_in_a_document(text: str) -> None:
    assert parse_scalar(text) == parse_yaml(text)
    assert type(parse_scalar(text)) is type(parse_yaml(text))


def test_lists_that_are_nested_too_deeply_are_an_error_of_yaml() -> None:
    for text in ("[" * 3000, "[" * 900 + "]" * 900, "- " * 900):
        with contextlib.suppress(yaml.YAMLError):
            parse_yaml(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\n", "line 2"),
        (b"a: \xff\n", "not UTF-8 text at byte 3"),
        (b"a:\n\tb: 1\n", r"a tab in the indentation, where YAML takes only spaces \(line 2"),
        (b"a:\n  b: 1\n \tc: 1\n", "a tab in the indentation"),
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
