"""`all4one plan` as a whole."""

import json
from pathlib import Path

import pytest
from commands import run

COMMAND = (
    "plan",
    "imagenet_resnet50",
    "slurm.gpus_per_node=8",
    "slurm.time=24h",
    "train.max_steps=200000",
    "checkpoint.every_steps=5000",
)


def test_the_tables_name_every_estimate_and_json_has_the_same_numbers() -> None:
    sharded = (*COMMAND, "parallel.zero_stage=1", "checkpoint.replicate_every=0")  # the interval counts
    shown = run(*sharded, "--nodes", 64, "--mtbf", "500h", "--step-time", "300ms", "--spares", 1)
    assert shown.code == 0, shown.out
    assert "--mtbf" in shown.out
    assert "estimate: Llama 3" in shown.out
    assert "sqrt(2 x save x MTBF)" in shown.out
    result = run(*sharded, "--nodes", 64, "--mtbf", "500h", "--step-time", "300ms", "--spares", 1, "--json")
    found = json.loads(result.out)
    assert f"{100 * found['goodput']:.2f} %" in shown.out
    assert found["assumptions"]["mtbf_seconds"] == 1.8e6
    assert found["sources"]["save_seconds"]["is_estimate"]
    assert found["spares"]["by_count"]["0"]["goodput"] > found["goodput"]
    assert str(found["checkpoint_every_steps"]["best"]) in shown.out
    assert f"checkpoint.every_steps={found['checkpoint_every_steps']['best']}" in shown.out


def test_a_run_that_cannot_make_progress_is_told_so() -> None:
    hopeless = (*COMMAND, "slurm.recovery=requeue", "--nodes", 64, "--mtbf", "1min", "--start-time", "5min")
    shown = run(*hopeless)
    assert shown.code == 0, shown.out
    assert "The run makes no progress" in shown.words
    assert "inf" not in shown.words.replace("interval", "").split()
    found = json.loads(run(*hopeless, "--json").out)
    assert (found["goodput"], found["expected"]["elapsed_seconds"]) == (0, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "imagenet_resnet50", "--mtbf", "5 parsecs"), "'5 parsecs' is not a duration"),
        (("plan", "imagenet_resnet50", "--nodes", "0"), "nodes must be at least 1"),
        (("plan", "imagenet_resnet50", "--step-time=-3s"), "'-3s' is not a duration"),
        (("plan", "imagenet_resnet51"), "imagenet_resnet51"),
    ],
)
def test_wrong_input_gives_one_message_with_a_fix(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert message in result.words
    assert "Traceback" not in result.out
    assert "fix:" in result.out


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = run("plan", "imagenet_resnet50", "--from-run", tmp_path)
    assert result.code == 2
    assert "fix:" in result.out
