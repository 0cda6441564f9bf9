import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.ledger import NO_END, Attempt, Hours
from launch.suspects import failures, machines, suspects


def attempt(nodes: str, reason: str = NO_END, message: str = "") -> Attempt:
    return Attempt(1, "7", nodes, 1, 0, 1, reason, message, 0, 0, 0, 0, Hours())


def killed(nodes: str, node: str) -> Attempt:
    return attempt(nodes, "killed", f"{node}, task 1: Killed")


def well(nodes: str, reason: str = "time is up") -> Attempt:
    return attempt(nodes, reason)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([killed("node[1-2]", "node2"), killed("node[2-3]", "node2")], ["node2"]),
        ([killed("node[1-2]", "node2"), killed("node[1-2]", "node1")], []),
        ([killed("node[1-2]", "node2"), attempt("node[1-2]")], []),
        ([attempt("node[1-2]"), attempt("node[2-3]")], ["node2"]),
        ([attempt("node[1-2]"), attempt("node[1-2]")], []),  # nothing tells the two apart
        ([attempt("node3"), attempt("node3")], []),  # nor a broken machine from a broken run
        ([attempt("node3"), attempt("node3"), well("node1")], ["node3"]),
        ([well("node[1,3]"), attempt("node[2-3]"), attempt("node[3-4]")], ["node3"]),
        ([attempt("node[1-8]"), attempt("node[1-7,9]")], []),  # no one machine stands out
        ([attempt("node[1-2]", "error", "the loss is nan")] * 3 + [well("node[1-9]")], []),
        ([attempt("node[1-2]", "error", "node2, task 1: Exited with exit code 1")] * 2, ["node2"]),
        ([well("node1", reason) for reason in ("preempted", "cancelled", "finished")] * 2, []),
        ([attempt("")] * 3, []),
        ([], []),
    ],
)  # fmt: skip
def test_a_machine_is_suspect_where_two_failures_point_at_it(
    attempts: list[Attempt], expected: list[str]
) -> None:
    assert suspects(attempts) == expected


def test_ends_that_were_asked_for_are_no_failures() -> None:
    good = [
        well("node1", reason) for reason in ("time is up", "preempted", "requeued", "cancelled", "finished")
    ]
    assert failures([*good, well("node1", "running")]) == []


@pytest.mark.parametrize(
    ("short", "names"),
    [
        ("", []),
        ("login1", ["login1"]),
        ("node[1-3,07],gpu1", ["node1", "node2", "node3", "node07", "gpu1"]),
        ("n[098-101]-ib", ["n098-ib", "n099-ib", "n100-ib", "n101-ib"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_slurms_short_form_is_spelt_out(short: str, names: list[str]) -> None:
    assert machines(short) == names


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), min_size=1, max_size=5), st.integers(0, 4))
def test_ranges_of_any_width_are_all_there(ranges: list[tuple[int, int]], width: int) -> None:
    short = ",".join(f"{first:0{width}d}-{first + more:0{width}d}" for first, more in ranges)
    names = machines(f"a,node[{short}]")
    numbers = [n for first, more in ranges for n in range(first, first + more + 1)]
    assert names == ["a", *(f"node{n:0{width}d}" for n in numbers)]
    assert all(re.fullmatch(r"a|node\d+", name) for name in names)
