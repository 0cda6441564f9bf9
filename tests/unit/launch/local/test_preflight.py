import os
import shutil
from pathlib import Path

import pytest
import torch

from data_pipelines.errors import UserError
from launch.local.preflight import (
    _checkpoint_bytes,
    _most_checkpoints,
    copies_bytes,
    problems,
    problems_of_memory,
    refuse,
)
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import Config, load_config
from trainer.engine.optimizers import build_optimizer, parameter_groups
from trainer.runs.components import build_method

OVERRIDES = ("backbone.width=8", "method.queue.size=64", "data.validation=null")

BEST = ("checkpoint.keep_best=knn_online", "data.validation=set", "eval.every_epochs=1")


def config_of(*overrides: str) -> Config:
    return load_config("digits_demo", [*OVERRIDES, *overrides])


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "sgd"])
def test_a_checkpoint_is_as_large_as_was_foretold(tmp_path: Path, optimizer: str) -> None:
    config = config_of(f"optim.name={optimizer}")
    method = build_method(config, 10, torch.device("cpu"))
    optim = build_optimizer(
        parameter_groups(method.named_parameters(), config.optim, config.train.global_batch), config.optim
    )
    sum(p.sum() for p in method.parameters() if p.requires_grad).backward()  # type: ignore[union-attr]
    optim.step()
    optimizer = {
        f"{key}/{name}": value
        for key, state in enumerate(optim.state.values())
        for name, value in state.items()
        if torch.is_tensor(value)
    }
    CheckpointStore(tmp_path, attempt=1).write(Snapshot(1, method.state_dict(), optimizer, {"step": 1}))
    found = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert _checkpoint_bytes(config, 10) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("small_disk", ["2m"], indirect=True)
def test_a_disk_without_room_for_the_checkpoints_of_new_runs_is_refused(
    small_disk: Path, tmp_path: Path, digits_set: Path
) -> None:
    config = config_of(f"run.folder={small_disk}/runs", f"data.train={digits_set}", "train.global_batch=64")
    (found,) = problems(config, 1, new_runs=1)
    assert "GB left" in str(found)
    assert str(small_disk) in str(found)
    assert problems(config, 1, new_runs=0) == []
    elsewhere = config_of(f"run.folder={tmp_path}/runs", f"data.train={digits_set}", "train.global_batch=64")
    assert problems(elsewhere, 1, new_runs=1) == []
    many = shutil.disk_usage(tmp_path).free // _checkpoint_bytes(elsewhere, 10)
    assert len(problems(elsewhere, 1, new_runs=many)) == 1


@pytest.mark.parametrize(
    ("overrides", "most"),
    [
        ((), 4),  # 3 are kept while a new one is written
        (("checkpoint.keep_last=1000",), 11),  # of a run that writes one at each of 10 epochs and at the end
        (("checkpoint.keep_last=1000", "train.max_steps=25"), 3),
        (("checkpoint.keep_every=20",), 9),  # and each second one is kept for good
        (("checkpoint.keep_every=15",), 7),  # each third one
        (("checkpoint.every_epochs=0",), 1),
        (("checkpoint.every_steps=1000",), 1),
        (("checkpoint.every_steps=1000", "checkpoint.every_minutes=5"), 4),
        ((*BEST,), 5),  # the best one beside the three newest
        ((*BEST, "checkpoint.every_epochs=0"), 5),  # evaluations save too
        ((*BEST, "checkpoint.every_epochs=0", "eval.every_epochs=5"), 3),
    ],
)
def test_no_more_checkpoints_are_counted_than_a_run_keeps(overrides: tuple[str, ...], most: int) -> None:
    run = ("train.epochs=10", "train.global_batch=64", "checkpoint.every_epochs=1")
    assert _most_checkpoints(config_of(*run, *overrides), 640) == most


@pytest.fixture(scope="module")
def digits_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from commands import run

    folder = tmp_path_factory.mktemp("digits")
    assert run("data", "build", "digits", folder).code == 0
    return folder / "train"


def test_groups_of_batch_norm_that_do_not_divide_the_ranks_are_refused(digits_set: Path) -> None:
    config = config_of("parallel.batch_norm_group=4", f"data.train={digits_set}", "train.global_batch=60")
    (found,) = problems(config, 6, new_runs=0)
    assert "set parallel.batch_norm_group to 3 or 6" in str(found)
    assert problems(config, 4, new_runs=0) == []


def test_a_run_that_goes_on_needs_no_pretrained_weights(
    digits_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    pretrained = ("backbone.pretrained=true", "backbone.stem=imagenet", "backbone.width=64")
    config = config_of(f"data.train={digits_set}", "train.global_batch=64", *pretrained)
    assert "could not be loaded" in str(problems(config, 1, new_runs=1))
    assert problems(config, 1, new_runs=0) == []


def test_what_several_runs_lack_is_said_once() -> None:
    with pytest.raises(UserError) as raised:
        refuse([UserError("no set"), UserError("no room"), UserError("no set")])
    assert "2 problems would stop this run" in str(raised.value)
    assert str(raised.value).count("no set") == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("checkpoint.keep_best=knn_20",), "use knn_online or knn_momentum"),
        (("checkpoint.keep_best=knn_momentum", "method=simclr"), "use knn_online"),
        (("checkpoint.keep_best=knn_momentum",), ""),
        (("checkpoint.keep_best=knn_online", "method=simclr"), ""),
    ],
)
def test_a_metric_that_the_run_never_gives_is_refused_with_those_that_it_gives(
    tmp_path: Path, digits_set: Path, overrides: tuple[str, ...], words: str
) -> None:
    named = [name for name in overrides if name.startswith("method=")]
    given = [name for name in OVERRIDES if not (named and name.startswith("method."))]
    sets = (f"data.train={digits_set}", f"data.validation={digits_set}", f"run.folder={tmp_path}")
    config = load_config("digits_demo", [*named, *given, *sets, "train.global_batch=64", *overrides])
    found = [str(problem) for problem in problems(config, 1, new_runs=1)]
    assert [words in problem for problem in found] == ([True] if words else [])


@pytest.mark.parametrize(("ranks", "holders"), [(2, 2), (8, 2)])
def test_the_copies_for_neighbors_take_two_models_and_four_shards_in_two_generations(
    ranks: int, holders: int
) -> None:
    settings = ("parallel.zero_stage=1", "optim.name=adamw", "checkpoint.replicate_every=10")
    method = build_method(config_of(), 0, torch.device("cpu"))
    model = sum(tensor.nbytes for tensor in method.state_dict().values())
    shards = 2 * sum(p.nbytes for p in method.parameters() if p.requires_grad)
    assert copies_bytes(config_of(*settings), ranks) == 2 * holders * model + 4 * shards
    assert copies_bytes(config_of(*settings, "parallel.zero_stage=0"), ranks) == 0
    assert copies_bytes(config_of(*settings, "checkpoint.replicate_every=0"), ranks) == 0
    assert copies_bytes(config_of(*settings), 1) == 0


def test_copies_that_do_not_fit_into_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("parallel.zero_stage=1")
    assert problems_of_memory(config, 2) == []
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 10 if name == "SC_PHYS_PAGES" else real(name))
    (problem,) = problems_of_memory(config, 2)
    assert "checkpoint.replicate_every=0" in str(problem)
    assert problems_of_memory(config, 1) == []
