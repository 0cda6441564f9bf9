"""What a user gets wrong is told in one message with its fix, and ends with a code other than 0."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train=/nowhere"], "/nowhere"),
        (["train.global_batch=65"], "set train.global_batch to 64 or 66"),
        (["optim.lrr=fast"], "did you mean optim.lr?"),
    ],
)
def test_wrong_settings_end_with_one_message_and_leave_nothing(runs, overrides: list[str], said: str) -> None:
    result = runs.train("wrong", *overrides)
    assert result.code == 2, result.out
    assert said in result.words
    assert "Traceback" not in result.out
    assert not runs.path("wrong").path.exists()


def test_a_folder_that_is_not_empty_is_left_alone(runs, straight) -> None:
    result = runs.train(straight)
    assert result.code == 2
    assert "not empty" in result.words
    assert "all4one resume" in result.words


def test_resume_and_eval_of_what_is_no_run(command, tmp_path: Path) -> None:
    for verb in ("resume", "eval", "export"):
        result = command(verb, tmp_path)
        assert result.code == 2
        assert "not the folder of a run" in result.words


def test_train_without_a_recipe_lists_them_and_a_wrong_name_names_the_nearest(command) -> None:
    listed = command("train")
    assert listed.code == 2
    assert "imagenet_resnet50" in listed.words
    assert "ImageNet-1k, ResNet-50" in listed.words
    near = command("train", "cifr10")
    assert near.code == 2
    assert "did you mean cifar10" in near.words


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_checkpoints(runs) -> None:
    result = runs.train(
        "diverged",
        "optim.name=sgd",
        "optim.lr=1e30",
        "checkpoint.every_steps=1",
        "eval.every_epochs=0",
        "optim.warmup_epochs=0",
        nproc=2,
    )
    assert result.code == 2, result.out
    assert "lower optim.lr" in result.words
    assert "Traceback" not in result.out
    assert "optim.lr" in result.words
