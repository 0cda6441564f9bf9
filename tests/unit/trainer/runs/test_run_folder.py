import errno
import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.distributed.collectives import rank
from trainer.engine.value_means import mean_over_ranks
from trainer.monitoring.metrics import MetricsWriter
from trainer.runs.owned_file import OwnedFile
from trainer.runs.records import append_record, read_records
from trainer.runs.run_folder import RunFolder, create_run, open_run


def test_a_run_is_made_once_and_keeps_its_configuration(tmp_path: Path) -> None:
    config = load_config("digits_demo", [f"run.folder={tmp_path}", "optim.lr=0.25"])
    run = create_run(config, "digits_demo")
    assert run.path == tmp_path / "digits_demo"
    assert open_run(run.path).read_config() == config.with_absolute_paths()
    with pytest.raises(UserError, match="not empty"):
        create_run(config, "digits_demo")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = load_config("digits_demo", [f"run.folder={tmp_path}/file"])
    with pytest.raises(UserError, match=r"run\.folder"):
        create_run(config, "digits_demo")


def test_a_line_that_was_cut_short_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_records(path) == []
    append_record(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2')
    assert read_records(path) == [{"step": 1}]
    append_record(path, {"step": 3})
    append_record(path, {"step": 4})
    assert read_records(path) == [{"step": 1}, {"step": 3}, {"step": 4}]


def test_attempts_are_counted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.attempts() == 0
    run.note("start", attempt=1)
    run.note("end", attempt=1, reason="interrupted")
    run.note("start", attempt=2)
    assert run.attempts() == 2


def test_metrics_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(OwnedFile(path), resume_step=0)
    for step in (1, 2, 3):
        writer.write("train", step, {"loss": 1.0 / step}, {"images_per_second": 5.0}, epoch=step / 10)
    writer.write("eval", 2, {"knn_online": 0.5})
    assert writer.evaluated(2)
    writer.close()
    with path.open("a") as file:
        file.write('{"cut sho')
    again = MetricsWriter(OwnedFile(path), resume_step=2)
    assert again.evaluated(2)
    assert not again.evaluated(3)
    again.write("train", 3, {"loss": 9.0})
    again.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        ("train", 1),
        ("train", 2),
        ("eval", 2),
        ("train", 3),
    ]
    assert records[0] == {
        "kind": "train",
        "step": 1,
        "epoch": 0.1,
        "loss": 1.0,
        "time": {"images_per_second": 5.0},
    }


@pytest.mark.parametrize("small_disk", ["64k"], indirect=True)
def test_records_that_a_full_disk_refuses_are_written_later(small_disk: Path) -> None:
    writer = MetricsWriter(OwnedFile(small_disk / "metrics.jsonl"), resume_step=0)
    writer.write("train", 1, {"loss": 1.0})
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(512)):
            pass
    for step in range(2, 300):
        writer.write("train", step, {"loss": 1.0 / step})
    (warning,) = writer.warnings()
    assert "No space left on device" in warning
    assert "train" in (small_disk / "metrics.jsonl").read_text()
    (small_disk / "filler").unlink()
    writer.close()
    assert [r["step"] for r in read_records(small_disk / "metrics.jsonl")] == list(range(1, 300))


def test_a_file_system_that_is_away_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricsWriter(OwnedFile(tmp_path / "metrics.jsonl"), resume_step=0)
    writer.write("train", 1, {"loss": 1.0})
    with monkeypatch.context() as patched:
        patched.setattr("trainer.runs.owned_file.os.open", _stale)
        writer.write("train", 2, {"loss": 1.0})
    assert [r["step"] for r in read_records(writer.path)] == [1]
    writer.write("train", 3, {"loss": 1.0})
    assert [r["step"] for r in read_records(writer.path)] == [1, 2, 3]


def test_records_that_another_program_removes_are_written_anew(tmp_path: Path) -> None:
    writer = MetricsWriter(OwnedFile(tmp_path / "metrics.jsonl"), resume_step=0)
    writer.write("train", 1, {"loss": 1.0})
    writer.path.unlink()
    writer.write("train", 2, {"loss": 0.5})
    assert [r["step"] for r in read_records(writer.path)] == [1, 2]
    (warning,) = writer.warnings()
    assert "another program has changed or removed" in warning
    writer.write("train", 3, {"loss": 0.5})
    assert [r["step"] for r in read_records(writer.path)] == [1, 2, 3]
    assert not writer.warnings()


def _stale(path: Path, *_: object) -> None:
    raise OSError(errno.ESTALE, "Stale file handle", str(path))


def means_of_ranks() -> dict[str, float]:
    nothing = math.nan if rank() else 0.5
    return mean_over_ranks(
        {
            "loss": torch.tensor(nothing),
            "online_top1": torch.tensor(nothing),
            "online_loss": torch.tensor(math.nan),
        }
    )


def test_a_value_of_labeled_rows_is_the_mean_of_the_ranks_that_have_some(run_ranks) -> None:
    for means in run_ranks(means_of_ranks, 2):
        assert means["online_top1"] == 0.5
        assert math.isnan(means["online_loss"])
        assert math.isnan(means["loss"]), "a broken loss is no missing one"


def test_mean_over_one_rank_is_the_value() -> None:
    assert mean_over_ranks({"a": torch.tensor(2.0), "b": torch.tensor(3)}) == {"a": 2.0, "b": 3.0}


def test_a_folder_that_holds_other_files_is_not_one_to_resume(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-000000.tar").touch()
    with pytest.raises(UserError, match="it holds other files") as caught:
        create_run(load_config("digits_demo", [f"run.folder={tmp_path}", "run.name=shards"]), "digits_demo")
    assert caught.value.fix == "choose another folder with run.name=NAME"
