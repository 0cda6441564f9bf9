import io

import pytest
from rich.console import Console

from trainer.runs import eval_progress
from trainer.runs.eval_progress import EvalProgress
from trainer.runs.progress import TrainingProgress

WORDS = "pip install 'all4one[wandb]' for /data/[x]/train"


def test_square_brackets_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    progress.say(WORDS)
    progress.close()
    EvalProgress(True).say(WORDS)
    assert capsys.readouterr().err.splitlines() == [WORDS, WORDS]


def test_square_brackets_of_a_set_stay_in_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(eval_progress, "Console", lambda **options: console)
    with EvalProgress(True).task("features of /data/[x]/train", 2) as advance:
        advance("")
    assert "features of /data/[x]/train" in screen.getvalue()
