"""Runs that go on from a checkpoint in the layout of the published code."""

from pathlib import Path

import pytest
import torch
from foreign_checkpoints import published

from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.engine.optimizer_state import load_optimizer_tensors
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.runs.components import build_method
from trainer.runs.run_folder import RunFolder

AS_PUBLISHED = ("optim.name=lars", "optim.lr=0.3")


def write_published(run: RunFolder, step: int, path: Path) -> None:
    """Write a checkpoint of a run as the published code would have saved it."""
    config = load_config(run.config)
    snapshot = CheckpointStore(run.checkpoints).load(run.checkpoints / f"step_{step:08d}")
    method = build_method(config, 10, torch.device("cpu"))
    method.load_state_dict(snapshot.model)
    groups = parameter_groups(method.named_parameters(), config.optim, config.train.global_batch)
    optimizer = build_optimizer(groups, config.optim)
    load_optimizer_tensors(optimizer, method.named_parameters(), snapshot.optimizer)
    torch.save(published(method, optimizer, step), path)


@pytest.fixture(scope="module")
def source(runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = runs.train("lars", *AS_PUBLISHED, nproc=1)
    assert result.code == 0, result.out
    path = tmp_path_factory.mktemp("published") / "last.ckpt"
    write_published(runs.path("lars"), 8, path)
    return path


def test_a_run_goes_on_from_it_to_the_same_weights(runs, source, command) -> None:
    result = command(*runs.arguments("on", *AS_PUBLISHED), "--from", source, "--nproc", 1)
    assert result.code == 0, result.out
    assert f"goes on from step 8 of {source}" in result.words
    a, b = runs.tensors("on"), runs.tensors("lars")
    assert a.keys() == b.keys()
    assert not [name for name in a if not a[name].equal(b[name])]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((*AS_PUBLISHED, "method.embedding_dim=32"), "does not fit the recipe"),
        (("optim.name=adamw",), "published checkpoints go on with"),
        ((*AS_PUBLISHED, "train.max_steps=8"), "would end at step 8"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(runs, source, command, overrides, words) -> None:
    result = command(*runs.arguments("unfit", *overrides), "--from", source)
    assert result.code == 2, result.out
    assert words in result.words
    assert not runs.path("unfit").path.exists()


def test_it_needs_a_recipe(source, command) -> None:
    result = command("train", "--from", source)
    assert result.code == 2
    assert "a published checkpoint does not hold its settings" in result.words
