from pathlib import Path

import pytest
from trained_runs import make_run

from data_pipelines.build.builder import build
from data_pipelines.errors import UserError
from data_pipelines.sources.image_sources import digits
from launch.local.runs import check, resume_run, warn_of_other_world_size
from launch.slurm import submit
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for name, source in digits().items():
        build(source, folder / name)
    return folder


def check_with(data: Path, *overrides: str, nproc: int = 2) -> None:
    common = [f"data.train={data}/train", f"data.validation={data}/validation"]
    check(load_config("digits_demo", [*common, *overrides]), nproc, new_runs=1)


def test_what_fits_passes(data: Path) -> None:
    check_with(data)
    check_with(data, "train.global_batch=12", "train.grad_accum_steps=2", nproc=3)
    check_with(data, "optim.warmup_epochs=2", "train.max_steps=3")  # a smoke test


@pytest.mark.parametrize(
    ("overrides", "nproc", "said"),
    [
        (["train.global_batch=65"], 2, "set train.global_batch to 64 or 66"),
        (["train.global_batch=4"], 4, "set train.global_batch to 8"),
        (["train.global_batch=2", "train.grad_accum_steps=2"], 1, "set train.global_batch to 4"),
        (["train.global_batch=1600"], 2, "train.global_batch=1500"),
        (["optim.warmup_epochs=500"], 1, "warm-up of 500 epochs exceeds"),
        (["backbone.name=resnet19"], 1, "resnet18"),
        (["data.train=nowhere"], 1, "nowhere"),
    ],
)
def test_what_would_stop_the_ranks_is_said_before(
    data: Path, overrides: list[str], nproc: int, said: str
) -> None:
    with pytest.raises(UserError) as error:
        check_with(data, *overrides, nproc=nproc)
    assert said in str(error.value)


def test_all_that_is_wrong_is_said_at_once(data: Path) -> None:
    with pytest.raises(UserError) as error:
        check_with(data, "train.global_batch=1601", "backbone.name=resnet19", "data.validation=nowhere")
    for part in (
        "4 problems",
        "set train.global_batch to 1600 or 1602",
        "less than one batch",
        "resnet18",
        "nowhere",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "classes", "command"),
    [([], 10, "eval"), ([], 0, "export"), (["data.validation=null"], 10, "export")],
)
def test_a_finished_run_is_evaluated_only_if_its_sets_have_labels(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    classes: int,
    command: str,
) -> None:
    run, method = make_run(tmp_path / "my folder" / "run", *overrides)
    state = {"step": 4, "classes": classes}
    CheckpointStore(run.checkpoints, attempt=2).write(Snapshot(4, method.state_dict(), {}, state))
    run.note("end", attempt=2, reason="finished", step=4)
    for module in ("launch.local.runs", "launch.slurm.submit"):
        monkeypatch.setattr(f"{module}.refuse_other_train_set", lambda *_: None)
    monkeypatch.setattr("launch.local.runs.check", lambda *_, **__: None)
    assert resume_run(run.path, [], 1) == 0
    told = capsys.readouterr().out
    assert f"all4one {command} '{run.path}'" in told
    assert submit.resume(run.path, [], preflight=False, dry_run=False) is None
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], "method.feature_scope=rank"),
        (["method.transformer_dropout=0.1"], "method.feature_scope=rank, method.transformer_dropout=0.1"),
        (["method.feature_scope=global", "parallel.batch_norm=rank"], "parallel.batch_norm=rank"),
        (
            ["method.feature_scope=global", "method.centroid_weight=0", "parallel.batch_norm_group=1"],
            "parallel.batch_norm_group=1",
        ),
        (["method.feature_scope=global"], ""),
        (["method.name=nnclr"], ""),
    ],
)
def test_another_number_of_processes_is_said_where_the_loss_depends_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], named: str
) -> None:
    run, config = RunFolder(tmp_path), load_config("digits_demo", overrides)
    capsys.readouterr()  # another method says which settings it resets
    run.ledger.write_text('{"event": "start", "world_size": 2}\n')
    warn_of_other_world_size(run, config, 2)
    assert capsys.readouterr().err == ""
    warn_of_other_world_size(run, config, 1)
    said = f"warning: the run had 2 ranks and now gets 1. Its loss depends on the number of ranks because of {named}\n"
    assert capsys.readouterr().err == (said if named else "")
