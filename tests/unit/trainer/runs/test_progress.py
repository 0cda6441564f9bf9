import io

import pytest
from rich.console import Console

from trainer.runs import progress
from trainer.runs.progress import ProgressBars, TrainingProgress

WORDS = "pip install 'all4one[wandb]' for /data/[x]/train"


def test_square_brackets_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    progress.say(WORDS)
    progress.close()
    ProgressBars(True).say(WORDS)
    assert capsys.readouterr().err.splitlines() == [WORDS, WORDS]


def test_square_brackets_of_a_set_stay_in_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **options: console)
    with ProgressBars(True).task("features of /data/[x]/train", 2) as advance:
        advance("")
    assert "features of /data/[x]/train" in screen.getvalue()
