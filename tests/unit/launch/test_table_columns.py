import io
import re

import pytest
from rich.console import Console

from launch.table_columns import Columns

WHY = "killed: node2, task 1: Killed by something with a rather long explanation"
ROW = {
    "run": "rates/lr=0.3,seed=0",
    "state": "killed",
    "nodes": "node[1-2]",
    "left": "",
    "step": "40/100",
    "why": WHY,
}
COLUMNS = Columns([ROW], spare=("nodes", "state"), wrapped="why")


def printed(columns: Columns, width: int) -> tuple[str, str]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    table, note = columns.fitted(console)
    console.print(table)
    return file.getvalue(), note


@pytest.mark.parametrize(
    ("width", "absent", "note"),
    [
        (200, [], ""),
        (100, [], ""),
        (88, ["left"], ""),
        (75, ["left", "nodes"], "no room for nodes"),
        (66, ["left", "nodes", "state"], "no room for nodes, state"),
    ],
)
def test_columns_without_text_go_first_and_no_word_is_broken(
    width: int, absent: list[str], note: str
) -> None:
    shown, said = printed(COLUMNS, width)
    assert said.startswith(note)
    assert bool(said) == bool(note)
    assert max(map(len, shown.splitlines())) <= width
    for name, value in ROW.items():
        words = [] if name in absent else [name, *value.split()]
        assert all(f" {word} " in shown for word in words), name
    for name in absent:
        assert f" {name} " not in shown


def test_on_a_terminal_that_is_far_too_narrow_only_the_first_column_is_folded() -> None:
    shown, _ = printed(Columns([{"run": "a" * 40, "state": "killed"}]), 30)
    assert " killed " in shown
    assert len("".join(re.findall("a+", shown.replace("state", "")))) == 40


@pytest.mark.parametrize(("width", "lines"), [(30, 4), (40, 2), (60, 2), (80, 1)])
def test_a_long_name_takes_few_lines_on_a_narrow_terminal(width: int, lines: int) -> None:
    row = {"run": "b" * 48, "state": "finished", "nodes": "vm", "step": "12000/12000"}
    shown, note = printed(Columns([row], spare=("nodes",)), width)
    assert max(map(len, shown.splitlines())) <= width
    assert len([line for line in shown.splitlines() if "bb" in line]) == lines
    assert " finished " in shown
    assert ("step" in note) is (" 12000/12000 " not in shown) is (width <= 40)
