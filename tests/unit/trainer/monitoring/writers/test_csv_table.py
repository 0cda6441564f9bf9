import csv
from pathlib import Path

import pytest

from trainer.monitoring.writers.csv_table import CsvTable
from trainer.runs.owned_file import OwnedFile

TRAIN = {"kind": "train", "step": 1, "epoch": 0.1, "loss": 2.5, "time": {"images_per_second": 9.0}}
EXAMINED = {"kind": "train", "step": 2, "epoch": 0.2, "loss": 2.0, "z_rank": 7.0}
EVAL = {"kind": "eval", "step": 2, "epoch": 0.2, "knn_online": 0.5}


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_new_values_make_new_columns_and_no_row_is_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = CsvTable(OwnedFile(path))
    table.restart(0, [])
    table.write(TRAIN)
    assert rows(path) == [
        ["kind", "step", "epoch", "loss", "images_per_second"],
        ["train", "1", "0.1", "2.5", "9.0"],
    ]
    for record in (EXAMINED, EVAL, {**TRAIN, "step": 3}):
        table.write(record)
    assert rows(path) == [
        ["kind", "step", "epoch", "loss", "images_per_second", "z_rank", "knn_online"],
        ["train", "1", "0.1", "2.5", "9.0", "", ""],
        ["train", "2", "0.2", "2.0", "", "7.0", ""],
        ["eval", "2", "0.2", "", "", "", "0.5"],
        ["train", "3", "0.1", "2.5", "9.0", "", ""],
    ]


def test_rows_of_steps_that_are_done_again_and_a_torn_row_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = CsvTable(OwnedFile(path))
    first.restart(0, [])
    for record in (TRAIN, EXAMINED, EVAL):
        first.write(record)
    with path.open("a") as file:
        file.write("train,3,0.")
    again = CsvTable(OwnedFile(path))
    again.restart(1, [TRAIN])
    again.write({**TRAIN, "step": 2})
    assert [row[1] for row in rows(path)] == ["step", "1", "2"]


def test_known_columns_are_appended_without_writing_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = CsvTable(OwnedFile(path))
    table.restart(0, [TRAIN])
    before = path.stat().st_ino
    table.write({**TRAIN, "step": 2})
    assert path.stat().st_ino == before
    table.write(EXAMINED)
    assert path.stat().st_ino != before


def test_what_a_failure_left_out_is_made_good(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "metrics.csv"
    table = CsvTable(OwnedFile(path))
    with pytest.raises(OSError):
        table.restart(0, [TRAIN])
    path.parent.mkdir()
    table.write(EVAL)
    assert [row[0] for row in rows(path)] == ["kind", "train", "eval"]
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError):
        table.write(EVAL)
    path.rmdir()
    table.close()
    assert [row[0] for row in rows(path)] == ["kind", "train", "eval", "eval"]
