import io
import re
from functools import partial

import pytest
from rich.console import Console

from trainer.runs.progress import TrainingProgress

WORDS = "pip install 'all4one[wandb]' for /data/[x]/train"


def test_square_brackets_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    progress.say(WORDS)
    progress.close()
    assert capsys.readouterr().err.splitlines() == [WORDS]


def test_a_step_with_a_loss_is_printed_once_in_a_while_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    for step in (1, 2, 3):
        progress.update(step, step / 10, loss=2.0 / step, images_per_second=64)
    progress.update(4, 0.4)
    with progress.bars.task("features", 2) as advance:
        advance()
    progress.close()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/10 · epoch 0.10 · loss 2.0000 · 64 images/s")
    assert last.startswith("step 3/10 · epoch 0.30 · loss 0.6667 · 64 images/s")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_bar_step_and_time_left_are_shown_at_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    found = io.StringIO()
    screen = partial(Console, file=found, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("data_pipelines.console.Console", screen)
    progress = TrainingProgress(60, 0, 64, visible=True)
    health = " · rank 128 · neighbors agree 90 %"
    progress.update(40, 0.67, loss=5.4321, images_per_second=1234, data_wait=0.5, health=health)
    progress.bars._bars.refresh()
    progress.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found.getvalue().replace("\r", "\n"))
    row = next(row for row in text.splitlines() if "training" in row and "step 40/60" in row).rstrip()
    assert len(row) <= width
    assert re.search(r"training ━━━━[━╸╺ ]+ step 40/60 [0-9:-]+ left", row)
    assert "…" not in row
    fields = [
        "epoch 0.67",
        "loss 5.4321",
        "1234 images/s",
        "data wait 50.0 %",
        "rank 128",
        "neighbors agree 90 %",
    ]
    shown = [field for field in fields if field in row]
    assert shown == fields[: len(shown)]
    assert row.endswith("left" if not shown else shown[-1])
    assert len(shown) >= {60: 0, 80: 2, 100: 3, 200: 6}[width]
