"""Which node is named, in clusters whose faults are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.node_check.comparison import LinkVerdict, first_round, judge_links, second_round, slow_nodes
from launch.node_check.rates import NodeRates, Rate

TOLERANCE = 0.2


def names(count: int) -> list[str]:
    return [f"node{number:03}" for number in range(count)]


def rounds(nodes: list[str], bad: set[str], bad_links: set[frozenset[str]], *, fails: bool) -> LinkVerdict:
    """What two rounds tell of a cluster with known faults."""

    def rate(pair: tuple[str, str]) -> float | None:
        if set(pair) & bad or frozenset(pair) in bad_links:
            return None if fails else 3e9
        return 10e9

    first = {pair: rate(pair) for pair in first_round(nodes)}
    second = {pair: rate(pair) for pair in second_round(nodes, first, TOLERANCE)}
    assert all(len({node for pair in one for node in pair}) == 2 * len(one) for one in (first, second))
    return judge_links(first, second, TOLERANCE)


@given(st.integers(8, 60), st.data(), st.booleans())
def test_one_bad_node_is_named_and_never_its_partner(count: int, data: st.DataObject, fails: bool) -> None:
    nodes = names(count)
    bad = data.draw(st.sampled_from(nodes))
    found = rounds(nodes, {bad}, set(), fails=fails)
    assert found == LinkVerdict([bad], [], [])


@given(st.integers(8, 60), st.data(), st.booleans())
def test_a_bad_link_between_good_nodes_is_named_as_a_link(
    count: int, data: st.DataObject, fails: bool
) -> None:
    nodes = names(count)
    pair = data.draw(st.sampled_from(first_round(nodes)))
    found = rounds(nodes, set(), {frozenset(pair)}, fails=fails)
    assert found == LinkVerdict([], [pair], [])


@given(st.integers(12, 60), st.data(), st.booleans())
def test_two_bad_nodes_that_met_each_other_are_both_named(
    count: int, data: st.DataObject, fails: bool
) -> None:
    nodes = names(count)
    pair = data.draw(st.sampled_from(first_round(nodes)))
    assert list(rounds(nodes, set(pair), set(), fails=fails).nodes) == sorted(pair)


@given(st.integers(0, 60))
def test_in_a_sound_cluster_nothing_is_named(count: int) -> None:
    assert rounds(names(count), set(), set(), fails=False) == LinkVerdict([], [], [])


def test_of_two_nodes_that_cannot_talk_none_can_be_told_from_the_other() -> None:
    assert rounds(names(2), {"node001"}, set(), fails=True).unclear == [("node000", "node001")]


def test_a_failing_node_of_three_is_found_by_the_third_one() -> None:
    # node000 fails with node001. In the second round node000 works with node002.
    found = rounds(names(3), {"node001"}, set(), fails=True)
    assert list(found.nodes) == ["node001"]


def test_a_node_below_the_median_by_more_than_the_tolerance_is_named() -> None:
    values = {"a": 100e9, "b": 104e9, "c": 79e9, "d": 101e9, "e": 82e9}
    found = slow_nodes([NodeRates(node, {Rate.MATRIX: value}) for node, value in values.items()], TOLERANCE)
    assert [one.node for one in found] == ["c"]
    assert found[0].what == "matrix products: 79 GFLOP/s, 21 % below the median of 100 GFLOP/s"


def test_a_failed_measurement_is_named_and_leaves_the_median_alone() -> None:
    nodes = [NodeRates(node, {Rate.READ: 5e8}) for node in "abc"]
    broken = NodeRates("d", {}, {Rate.READ: "Input/output error"})
    found = slow_nodes([*nodes, broken], TOLERANCE)
    assert [(one.node, one.what) for one in found] == [("d", "read of the set: Input/output error")]


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_node_is_never_slower_than_itself(count: int) -> None:
    assert slow_nodes([NodeRates(str(n), {Rate.DECODE: 50.0}) for n in range(count)], TOLERANCE) == []
