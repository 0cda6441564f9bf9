import io
import time
from functools import partial

import pytest
from rich.console import Console

from data_pipelines import console
from data_pipelines.progress import ProgressBars

WORDS = "pip install 'all4one[wandb]' for /data/[x]/train"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal shows."""
    found = io.StringIO()
    monkeypatch.setattr(console, "Console", partial(Console, file=found, force_terminal=True, width=120))
    return found


def test_square_brackets_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBars(True).say(WORDS)
    assert capsys.readouterr().err.splitlines() == [WORDS]


def test_square_brackets_of_a_set_stay_in_the_bar(screen: io.StringIO) -> None:
    with ProgressBars(True).task("features of /data/[x]/train", 2) as advance:
        advance("")
    assert "features of /data/[x]/train" in screen.getvalue()


@pytest.mark.parametrize(("total", "shown"), [(7, "5/7"), (None, "5/?")])
def test_a_counter_shows_the_steps_done(screen: io.StringIO, total: int | None, shown: str) -> None:
    with ProgressBars(True).counter("images", total) as show:
        show(5)
        time.sleep(0.3)  # the screen is drawn ten times a second
    assert shown in screen.getvalue()


def test_without_a_terminal_a_counter_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars(True).counter("images", 7) as show:
        show(5)
    assert capsys.readouterr().err == ""
