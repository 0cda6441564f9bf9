import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.slurm.hostlist import expand_hostlist, short_hostlist


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
    assert expand_hostlist(short) == names


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), min_size=1, max_size=5), st.integers(0, 4))
def test_ranges_of_any_width_are_all_there(ranges: list[tuple[int, int]], width: int) -> None:
    short = ",".join(f"{first:0{width}d}-{first + more:0{width}d}" for first, more in ranges)
    names = expand_hostlist(f"a,node[{short}]")
    numbers = [n for first, more in ranges for n in range(first, first + more + 1)]
    assert names == ["a", *(f"node{n:0{width}d}" for n in numbers)]
    assert all(re.fullmatch(r"a|node\d+", name) for name in names)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ([], ""),
        (["login"], "login"),
        (["node1", "node2", "node3"], "node[1-3]"),
        (["node2", "node1"], "node2,node1"),
        (["node9", "node10", "gpu1", "node12"], "node[9-10],gpu1,node12"),
        (["n099", "n100", "n07", "n08"], "n[099-100],n[07-08]"),
    ],
)
def test_neighbors_share_a_bracket(names: list[str], short: str) -> None:
    assert short_hostlist(names) == short


@given(st.lists(st.from_regex(r"[a-c]{0,1}\d{0,3}-?[0-3]{0,2}", fullmatch=True).filter(bool), max_size=8))
def test_the_short_form_of_any_names_means_these_names(names: list[str]) -> None:
    assert expand_hostlist(short_hostlist(names)) == names
