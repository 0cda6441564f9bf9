"""What the rates of nodes decide: which nodes are bad, and which spares take their places."""

from collections.abc import Mapping

import pytest

from launch.node_check.node_verdict import CHECK, Manning, Verdict, judge_nodes, man
from launch.node_check.rates import NodeRates, Rate

TOLERANCE = 0.2
SILENT = "no answer within 30 s"


def nodes(
    rates: Mapping[str, float], failures: Mapping[str, Mapping[str, str]] | None = None
) -> list[NodeRates]:
    """Nodes that decode so many images per second, and what fails on them."""
    failures = failures or {}
    found = [NodeRates(node, {Rate.DECODE: rate}, failures.get(node, {})) for node, rate in rates.items()]
    return found + [NodeRates(node, {}, why) for node, why in failures.items() if node not in rates]


def verdict(bad: str = "", failed: str = "") -> Verdict:
    """A verdict on nodes whose names are letters."""
    return Verdict({node: ["why"] for node in bad + failed}, frozenset(failed), [], [])


def test_equal_nodes_are_good() -> None:
    found = judge_nodes(nodes({"a": 100, "b": 99, "c": 101}), {("a", "b"): 1e9}, {("c", "a"): 1e9}, TOLERANCE)
    assert found == Verdict({}, frozenset(), [], [])


def test_a_slow_node_is_bad_and_has_not_failed() -> None:
    found = judge_nodes(nodes({"a": 100, "b": 70, "c": 101}), {}, {}, TOLERANCE)
    assert found.bad == {"b": ["JPEG decode: 70 images/s, 30 % below the median of 100 images/s"]}
    assert found.failed == frozenset()


@pytest.mark.parametrize("failures", [{"c": {Rate.READ: "Input/output error"}}, {"c": {CHECK: SILENT}}])
def test_a_node_on_which_something_fails_has_failed(failures: Mapping[str, Mapping[str, str]]) -> None:
    found = judge_nodes(nodes({"a": 100, "b": 99}, failures), {}, {}, TOLERANCE)
    assert found.failed == {"c"}
    ((rate, why),) = failures["c"].items()
    assert found.bad == {"c": [f"{rate}: {why}"]}


@pytest.mark.parametrize("rate", [Rate.READ, CHECK])
@pytest.mark.parametrize("count", [1, 3])
def test_what_fails_on_all_nodes_is_the_fault_of_none(rate: str, count: int) -> None:
    failures = {node: {rate: f"why on {node}"} for node in "abc"[:count]}
    found = judge_nodes(nodes({}, failures), {}, {}, TOLERANCE)
    assert found == Verdict({}, frozenset(), [], [f"{rate}: why on a"])


def test_a_silent_node_is_bad_also_if_something_fails_on_all_others() -> None:
    failures = {"a": {Rate.READ: "no shard"}, "b": {Rate.READ: "no shard"}, "c": {CHECK: SILENT}}
    found = judge_nodes(nodes({}, failures), {}, {}, TOLERANCE)
    assert (found.bad, found.failed) == ({"c": [f"check: {SILENT}"]}, {"c"})
    assert found.common == ["read of the set: no shard"]


def test_the_only_node_that_answers_is_not_all_of_them() -> None:
    found = judge_nodes(nodes({}, {"a": {Rate.READ: "no shard"}, "b": {CHECK: SILENT}}), {}, {}, TOLERANCE)
    assert found.failed == {"a", "b"}
    assert found.common == []


def test_a_node_that_fails_with_both_partners_has_failed() -> None:
    rates = nodes({"a": 100, "b": 100, "c": 100})
    found = judge_nodes(rates, {("a", "b"): None}, {("a", "c"): 1e9}, TOLERANCE)
    assert found.bad == {"b": ["all-reduce: it fails with every partner"]}
    assert (found.failed, found.links) == ({"b"}, [])


def test_a_slow_link_of_a_node_is_told_from_one_that_fails() -> None:
    first = {("a", "b"): 1e9, ("c", "d"): 1e9, ("e", "f"): 5e8}
    second = {("e", "a"): 1e9, ("f", "c"): 5e8}
    found = judge_nodes(nodes(dict.fromkeys("abcdef", 100)), first, second, TOLERANCE)
    assert found.bad == {"f": ["all-reduce: it is slow with every partner"]}
    assert found.failed == frozenset()


def test_two_nodes_that_cannot_talk_are_named_together_and_stay() -> None:
    found = judge_nodes(nodes({"a": 100, "b": 100}), {("a", "b"): None}, {}, TOLERANCE)
    assert found == Verdict({}, frozenset(), [("a", "b")], [])


@pytest.mark.parametrize(
    ("found", "lost", "crew", "spares", "swapped"),
    [
        (verdict(), "", "abc", "xy", {}),
        (verdict(bad="b"), "", "axc", "yb", {"b": "x"}),
        (verdict(failed="b"), "", "axc", "y", {"b": "x"}),
        (verdict(), "b", "axc", "y", {"b": "x"}),
        (verdict(bad="a"), "", "xbc", "ya", {"a": "x"}),
        # A spare that is bad is the last one, and one that fails is none.
        (verdict(bad="bx"), "", "ayc", "xb", {"b": "y"}),
        (verdict(bad="b", failed="x"), "", "ayc", "b", {"b": "y"}),
        (verdict(failed="xy"), "", "abc", "", {}),
        (verdict(), "x", "abc", "y", {}),
        # With too few spares, nodes that fail go first, and a slow node is better than one that fails.
        (verdict(bad="a", failed="bc"), "", "axy", "", {"b": "x", "c": "y"}),
        (verdict(bad="ay", failed="bx"), "", "ayc", "", {"b": "y"}),
        # A slow spare is no better than a slow node.
        (verdict(bad="axy"), "", "abc", "xy", {}),
        (verdict(bad="a", failed="bxy"), "", "abc", "", {}),
    ],
)
def test_spares_take_the_places_of_worse_nodes(
    found: Verdict, lost: str, crew: str, spares: str, swapped: Mapping[str, str]
) -> None:
    assert man([*"abc"], [*"xy"], found, frozenset(lost)) == Manning([*crew], [*spares], swapped)
