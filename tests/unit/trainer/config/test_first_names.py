"""Settings under the names of version 0.1 mean the same, and are told of once."""

import json

import pytest
import yaml

from data_pipelines.settings import ViewSettings
from trainer.config import schema
from trainer.config.problems import current_key
from trainer.config.resume_compat import fingerprint, training_config
from trainer.config.schema import Config, load_config, parse

SETTINGS = {
    "train.accumulation=2": "train.grad_accum_steps=2",
    "optim.clip_gradients=3": "optim.max_grad_norm=3",
    "optim.eta=0.5": "optim.trust_coefficient=0.5",
    "parallel.zero=1": "parallel.zero_stage=1",
    "parallel.threads=3": "parallel.torch_threads=3",
    "backbone.recompute=true": "backbone.activation_checkpointing=true",
    "method.neighbours=3": "method.num_neighbors=3",
    "method.neighbour_weight=0.25": "method.neighbor_weight=0.25",
    "method.embedding=64": "method.embedding_dim=64",
    "method.queue.length=777": "method.queue.size=777",
    "data.threads=5": "data.decode_threads=5",
    "data.cache_ahead=7": "data.prefetch_shards=7",
    "data.views.1.jitter=0.1": "data.views.1.color_jitter_prob=0.1",
    "data.views.1.grey=0.1": "data.views.1.grayscale_prob=0.1",
    "data.views.1.blur=0.1": "data.views.1.blur_prob=0.1",
    "data.views.1.solarise=0.1": "data.views.1.solarize_prob=0.1",
    "data.views.1.flip=0.1": "data.views.1.flip_prob=0.1",
    "slurm.signal_before=60": "slurm.signal_lead_seconds=60",
}


@pytest.mark.parametrize(("old", "new"), SETTINGS.items())
def test_an_old_name_is_the_new_setting(old: str, new: str) -> None:
    assert load_config("cifar10", [old]) == load_config("cifar10", [new]) != load_config("cifar10")
    assert current_key(old.partition("=")[0], Config) == new.partition("=")[0]


def test_recipes_and_defaults_take_old_names(tmp_path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: cifar10\nmethod: {embedding: 32, queue: {length: 99}}\n")
    config = load_config(recipe, defaults={"slurm": {"signal_before": 33}})
    assert (config.method.embedding_dim, config.method.model_dump()["queue"]["size"]) == (32, 99)
    assert config.slurm.signal_lead_seconds == 33


def test_the_last_of_two_names_counts(tmp_path) -> None:
    base, recipe = tmp_path / "below.yaml", tmp_path / "mine.yaml"
    base.write_text("base: cifar10\ntrain: {accumulation: 2}\n")
    recipe.write_text("base: below\ntrain: {grad_accum_steps: 4}\n")
    assert load_config(recipe).train.grad_accum_steps == 4
    assert load_config(recipe, ["train.accumulation=8"]).train.grad_accum_steps == 8
    assert load_config(base, ["train.grad_accum_steps=4", "train.accumulation=2"]).train.grad_accum_steps == 2


def test_an_old_name_is_told_once(capsys, monkeypatch) -> None:
    monkeypatch.setattr(schema, "_TOLD", set())
    for _ in range(2):
        load_config("cifar10", ["method.embedding=64", "train.accumulation=2"])
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1
    assert "method.embedding is now method.embedding_dim" in notice
    assert "train.accumulation is now train.grad_accum_steps" in notice


def test_the_settings_of_an_old_run_are_read_in_silence(capsys) -> None:
    config = load_config("cifar10", ["method.embedding_dim=32"])
    values = json.loads(json.dumps(schema.dump(config)).replace('"embedding_dim"', '"embedding"'))
    assert parse(yaml.safe_load(yaml.safe_dump(values)), where="config.yaml") == config
    assert capsys.readouterr().err == ""


def test_a_name_that_a_model_has_today_is_no_old_name() -> None:
    class Flipped(ViewSettings):
        flip: bool = True

    assert "flip" not in Flipped.renamed()
    assert Flipped(flip=False).flip is False
    assert Flipped(jitter=0.5).color_jitter_prob == 0.5


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("cifar10", "13c6d5d1bbc9ee39"),
        ("cifar10_vicreg", "f766828391fde175"),
        ("digits_demo", "43d29be7c3149e55"),
        ("imagenet_resnet50", "001b06182985370e"),
    ],
)
def test_shipped_recipes_have_the_fingerprints_of_version_0_1(recipe: str, wanted: str) -> None:
    config = load_config(recipe)
    assert fingerprint(config) == wanted
    assert "method.embedding_dim" in training_config(config)
