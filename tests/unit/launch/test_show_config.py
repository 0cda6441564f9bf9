import json

import pytest
import yaml

from launch.commands.output_format import OutputFormat
from launch.commands.show_config import _source, _sources, show
from trainer.config.schema import load_config


@pytest.mark.parametrize(
    ("overrides", "key", "source"),
    [
        ([], "optim.lr", "cifar10.yaml"),
        (["optim.lr=0.5"], "optim.lr", "command line"),
        (["optim.name=adamw"], "optim.lr", "default"),
        (["optim=adamw"], "optim.name", "command line"),
        (["optim=adamw"], "optim.momentum", "default"),
        (["optim=adamw", "optim.lr=0.1"], "optim.lr", "command line"),
        (["optim.name=lars"], "optim.lr", "cifar10.yaml"),
        (["optim.clip_gradients=1"], "optim.max_grad_norm", "command line"),
    ],
)
def test_the_source_of_a_value_is_the_one_that_counts(overrides: list[str], key: str, source: str) -> None:
    assert _source(key, _sources("cifar10", overrides)) == source


def test_a_component_that_resets_settings_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        load_config("digits_demo", ["method.name=nnclr", "method.temperature=0.1"])
    said = capsys.readouterr().err
    assert said.count("notice: method.name=nnclr starts from its own defaults") == 1
    assert "method.embedding_dim=256 (was 64)" in said
    assert "method.queue.size=98304 (was 1024)" in said
    assert "temperature" not in said
    load_config("digits_demo", ["method.name=all4one"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("output", [OutputFormat.YAML, OutputFormat.JSON])
def test_a_recipe_that_is_printed_can_be_read_again(
    output: OutputFormat, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("cifar10", ["optim.lr=0.5", "run.name=0123"], output)
    said = capsys.readouterr().out
    values = yaml.safe_load(said) if output == OutputFormat.YAML else json.loads(said)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values))
    assert load_config(tmp_path / "again.yaml") == load_config("cifar10", ["optim.lr=0.5", "run.name=0123"])
