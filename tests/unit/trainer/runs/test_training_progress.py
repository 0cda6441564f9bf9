import pytest

from trainer.runs.progress import TrainingProgress

WORDS = "pip install 'all4one[wandb]' for /data/[x]/train"


def test_square_brackets_of_a_message_stay(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    progress.say(WORDS)
    progress.close()
    assert capsys.readouterr().err.splitlines() == [WORDS]


def test_a_step_with_a_loss_is_printed_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(10, 0, 64, visible=True)
    progress.update(1, 0.1, loss=2.0, images_per_second=64)
    progress.update(2, 0.2, loss=1.0, images_per_second=64)
    progress.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 1/10 · epoch 0.10 · loss 2.0000 · 64 images/s")
