import re
from pathlib import Path

import pytest
from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.progress import ProgressBars
from launch.commands.output_format import OutputFormat
from launch.commands.show_config import show
from launch.doctor.examination import _print
from launch.doctor.findings import OK, PROBLEM, Finding
from launch.messages import print_error

ROOT = Path(__file__).resolve().parents[3]
TEXT = "a [/x] [red]a[/] :100: \\[b]"
"""Text that rich would print otherwise, or refuse."""


def test_text_stands_as_it_is_in_lines_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(TEXT, title=TEXT)
    table.add_row(TEXT)
    for line in (table, TEXT):
        plain_console().print(line)
    assert capsys.readouterr().out.count(TEXT) == 4


def test_settings_findings_errors_and_progress_stand_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show("digits_demo", [f"description={TEXT}"], OutputFormat.TABLE)
    _print(iter([[Finding(PROBLEM, "disk", TEXT, TEXT), Finding(OK, "disk", TEXT, "")]]))
    print_error(UserError(TEXT, where=TEXT, fix=TEXT))
    ProgressBars(visible=True).say(TEXT)
    said = capsys.readouterr()
    assert said.out.count(TEXT) == 4
    assert said.err.count(TEXT) == 4


def test_without_a_terminal_tables_hold_whole_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("path")
    table.add_row("word " * 100)
    plain_console().print(table)
    assert "word " * 100 in capsys.readouterr().out


def test_every_console_is_plain() -> None:
    """`Console()` of rich would give text of users a meaning."""
    files = [
        path
        for folder in ("data_pipelines", "trainer", "launch", "all4one")
        for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    made = [path for path in files if re.search(r"\bConsole\(|\bfrom_markup\(", path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in made] == ["data_pipelines/console.py"]
