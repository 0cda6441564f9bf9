"""Backbones that several ranks read while their run goes on."""

import time
from pathlib import Path
from unittest import mock

import pytest
from trained_runs import make_run

from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.distributed.collectives import rank
from trainer.inference import loaded_backbones
from trainer.runs.run_folder import RunFolder

NARROW = ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half")
NEWER = "step_00000009"


def load_while_it_trains(path: Path) -> str:
    """The checkpoint that a rank evaluates. A newer one is written once the first rank has read."""
    original, run = loaded_backbones.load_backbones, RunFolder(path)

    def load(source: Path) -> loaded_backbones.LoadedBackbones:
        for _ in range(600 if rank() else 0):
            if (run.checkpoints / NEWER).is_dir():
                break
            time.sleep(0.05)
        found = original(source)
        if rank() == 0:
            store = CheckpointStore(run.checkpoints, attempt=2)
            model = store.load(Path(found.recipe.source)).model
            store.write(Snapshot(9, model, {}, {"step": 9}))
        return found

    with mock.patch.object(loaded_backbones, "load_backbones", load):
        return Path(loaded_backbones.load_same_on_all_ranks(path).recipe.source).name


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.slow
def test_all_ranks_evaluate_the_checkpoint_that_the_first_one_found(
    run_ranks, tmp_path: Path, ranks: int
) -> None:
    run, _ = make_run(tmp_path / "run", *NARROW)
    assert run_ranks(load_while_it_trains, ranks, run.path) == ["step_00000003"] * ranks
    assert (run.checkpoints / NEWER).is_dir()


@pytest.mark.slow
def test_a_checkpoint_is_found_from_inside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = make_run(tmp_path / "run", *NARROW)
    monkeypatch.chdir(run.checkpoints)
    for place in (Path("step_00000003"), Path("step_00000003/.")):
        found = loaded_backbones.load_backbones(place)
        assert (found.run, found.step) == (run.path, 3)


@pytest.mark.slow
def test_a_run_that_dali_trained_is_evaluated_where_there_is_no_dali(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = make_run(tmp_path / "run", *NARROW, "data.executor=dali")
    assert loaded_backbones.load_backbones(run.path).recipe.data.executor == "dali"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert loaded_backbones.load_backbones(run.path).recipe.data.executor == "auto"
