import json
from pathlib import Path

import pytest
import yaml

from launch.commands.output_format import OutputFormat
from launch.commands.show_config import _source, _sources, show
from trainer.config import schema
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
        (["optim={lr: 0.5}"], "optim.lr", "command line"),
        (["optim={lr: 0.5}"], "optim.weight_decay", "cifar10.yaml"),
        (["optim={clip_gradients: 1}"], "optim.max_grad_norm", "command line"),
        (["optim={name: adamw, lr: 0.1}"], "optim.lr", "command line"),
        (["optim={name: adamw, lr: 0.1}"], "optim.momentum", "default"),
        (["optim={name: adamw, lr: 0.1}"], "optim.warmup_epochs", "default"),
        (["optim={name: lars}"], "optim.weight_decay", "cifar10.yaml"),
        (["method.queue={length: 5}"], "method.queue.size", "command line"),
        (["method={neighbours: 3}"], "method.num_neighbors", "command line"),
        (["data.views.0={jitter: 0.1}"], "data.views", "command line"),
        (["data={views: byol}"], "data.views", "command line"),
        (["data={views: byol}"], "data.train", "cifar10.yaml"),
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


def test_a_component_that_no_recipe_names_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("optim: {lr: 0.3}\nmethod: byol\n")
    sources = _sources(str(tmp_path / "own.yaml"), [])
    assert (_source("optim.lr", sources), _source("method.name", sources)) == ("own.yaml", "own.yaml")
    assert _source("optim.lr", _sources(str(tmp_path / "own.yaml"), ["optim=adamw"])) == "default"


@pytest.mark.parametrize(
    ("given", "told", "not_told"),
    [
        ("optim.eta=0.5", "optim.lr", "trust_coefficient"),
        ("optim={eta: 0.5, lr: 0.5}", "optim.momentum", "optim.lr"),
        ("optim.betas=[0.5, 0.6]", "optim.lr", "optim.betas"),
        ("optim={lr: 0.5}", "optim.momentum", "optim.lr"),
        ("optim={name: adamw, lr: 0.5}", "optim.momentum", "optim.lr"),
    ],
)
def test_only_settings_that_nobody_gave_are_told_as_reset(
    given: str, told: str, not_told: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(schema, "_TOLD", set())
    (tmp_path / "own.yaml").write_text(
        "optim: {name: sgd, lr: 0.3, momentum: 0.1, betas: [0.1, 0.2], trust_coefficient: 0.3}\n"
    )
    load_config(tmp_path / "own.yaml", ["optim=adamw", given])
    notice = capsys.readouterr().err.partition("starts from its own defaults")[2]
    assert told in notice
    assert not_told not in notice


@pytest.mark.parametrize("output", [OutputFormat.YAML, OutputFormat.JSON])
def test_a_recipe_that_is_printed_can_be_read_again(
    output: OutputFormat, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("cifar10", ["optim.lr=0.5", "run.name=0123"], output)
    said = capsys.readouterr().out
    values = yaml.safe_load(said) if output == OutputFormat.YAML else json.loads(said)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values))
    assert load_config(tmp_path / "again.yaml") == load_config("cifar10", ["optim.lr=0.5", "run.name=0123"])
