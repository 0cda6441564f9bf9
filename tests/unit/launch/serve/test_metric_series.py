"""The values of a run in memory are those of its file, however the file grows."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.serve.metric_series import MetricSeries, Series, Window
from trainer.runs.records import read_records, read_speeds

ALL = Window(points=100_000)


def train(step: int, **values: Any) -> dict[str, Any]:
    time = {"images_per_second": 10.0 + step}
    return {"kind": "train", "step": step, "epoch": step / 4, "loss": 1 / (1 + step), "time": time, **values}


def evaluation(step: int) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "epoch": step / 4, "knn_online": step / 100}


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def plainly(path: Path) -> dict[str, Series]:
    """What the file holds, read record by record."""
    found: dict[str, Series] = {}
    for record in read_records(path):
        for name, value in (record | record.get("time", {})).items():
            if name not in ("kind", "step", "epoch", "time"):
                series = found.setdefault(name, Series([], [], []))
                series.steps.append(record["step"])
                series.epochs.append(record["epoch"])
                series.values.append(value)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_every_value_is_read_with_its_step_and_epoch(path: Path) -> None:
    steps = [train(s, **({"z_rank": 3.0 * s} if s % 5 == 0 else {})) for s in range(1, 40)]
    path.write_bytes(lines(evaluation(0), *steps[:20], evaluation(20), *steps[20:], evaluation(39)))
    series = MetricSeries(path)
    assert series.update(ALL).series == plainly(path)
    assert series.speeds() == read_speeds(path)


def test_only_what_was_appended_comes_after_a_cursor(path: Path) -> None:
    series = MetricSeries(path)
    nothing = series.update(ALL)
    assert nothing.series == {}
    path.write_bytes(lines(train(1), train(2)))
    first = series.update(ALL, nothing.cursor)
    assert first.series["loss"].steps == [1, 2]
    assert series.update(ALL, first.cursor) == first._replace(whole=False, series={})
    with path.open("ab") as file:
        file.write(lines(train(3), evaluation(3)))
    second = series.update(ALL, first.cursor)
    assert not second.whole
    assert second.series == {
        "loss": Series([3], [0.75], [0.25]),
        "images_per_second": Series([3], [0.75], [13.0]),
        "knn_online": Series([3], [0.75], [0.03]),
    }


@pytest.mark.parametrize("cursor", ["", "0.1", "nonsense", "1.x", "9.9.9"])
def test_an_unknown_cursor_gets_everything(path: Path, cursor: str) -> None:
    path.write_bytes(lines(train(1), train(2)))
    found = MetricSeries(path).update(ALL, cursor)
    assert found.whole
    assert found.series["loss"].steps == [1, 2]


def test_a_line_that_is_half_written_is_read_when_its_end_is_there(path: Path) -> None:
    whole = lines(train(1), train(2))
    path.write_bytes(whole[:-20])
    series = MetricSeries(path)
    first = series.update(ALL)
    assert first.series["loss"].steps == [1]
    with path.open("ab") as file:
        file.write(whole[-20:])
    assert series.update(ALL, first.cursor).series["loss"].steps == [2]


@given(st.lists(st.integers(0, 2000), max_size=6), st.randoms(use_true_random=False))
def test_the_curves_do_not_depend_on_how_the_file_was_written(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], random: Any
) -> None:
    path = tmp_path_factory.mktemp("series") / "metrics.jsonl"
    records = [train(s) if random.random() < 0.8 else evaluation(s) for s in range(1, 15)]
    content = lines(*records)
    series = MetricSeries(path)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[begin:end])
        series.update(ALL)
    assert series.update(ALL).series == plainly(path)


def test_damaged_lines_hide_nothing_else(path: Path) -> None:
    damaged = b'{"kind": "train", "step": 2, "ep\n\xff\xfe\n[1]\n'
    damaged += b'{"kind": "train", "step": "x", "epoch": 1, "loss": 1}\n'
    nan = b'{"kind": "train", "step": 3, "epoch": 1, "loss": NaN}\n'
    path.write_bytes(lines(train(1)) + damaged + nan + b"\n" + lines(train(4)))
    assert MetricSeries(path).update(ALL).series == plainly(path)
    with path.open("ab") as file:
        file.write(lines(train(1 << 70)))
    assert MetricSeries(path).update(ALL).series["loss"].steps == [1, 4]


def test_a_run_that_resumes_from_an_earlier_step_is_one_curve(path: Path) -> None:
    path.write_bytes(lines(*(train(s) for s in range(1, 9)), evaluation(8)))
    series = MetricSeries(path)
    first = series.update(ALL)
    with path.open("ab") as file:
        file.write(lines(train(5, loss=7.0), train(6, loss=8.0)))
    second = series.update(ALL, first.cursor)
    assert second.whole
    assert second.series["loss"].steps == [1, 2, 3, 4, 5, 6]
    assert second.series["loss"].values[-2:] == [7.0, 8.0]
    assert "knn_online" not in second.series
    assert MetricSeries(path).update(ALL).series == second.series


def test_a_file_that_was_replaced_is_read_again(path: Path) -> None:
    path.write_bytes(lines(*(train(s) for s in range(1, 9))))
    series = MetricSeries(path)
    first = series.update(ALL)
    temporary = path.with_suffix(".new")  # as a resumed run does
    temporary.write_bytes(lines(*(train(s, loss=9.0) for s in range(1, 12))))
    temporary.replace(path)
    second = series.update(ALL, first.cursor)
    assert second.whole
    assert second.series["loss"].values == [9.0] * 11
    path.write_bytes(lines(train(1)))  # shorter, in the same file
    assert series.update(ALL, second.cursor).series["loss"].steps == [1]
    path.unlink()
    assert series.update(ALL).series == {}


def test_a_thinned_curve_keeps_its_peaks_and_ends(path: Path) -> None:
    path.write_bytes(lines(*(train(s, peak=1.0 if s == 777 else 0.0) for s in range(1, 2001))))
    series = MetricSeries(path)
    found = series.update(Window(points=50)).series
    assert all(len(one.steps) <= 50 for one in found.values())
    assert 777 in found["peak"].steps
    assert found["loss"].steps[0] == 1
    assert found["loss"].steps[-1] == 2000
    finer = series.update(Window(low=500, high=520, by_step=True, points=50)).series["loss"].steps
    assert finer == list(range(499, 521))  # with a neighbor on each side, so that the line goes on
    by_epoch = series.update(Window(low=100.0, high=101.0, points=50)).series["loss"].steps
    assert by_epoch == list(range(399, 405))
    assert series.update(Window(points=50), names=["peak"]).series.keys() == {"peak"}


def test_a_large_file_has_a_preview_until_it_is_read(path: Path) -> None:
    path.write_bytes(lines(*(train(s) for s in range(1, 60_000))))
    series = MetricSeries(path)
    rough = series.preview(100)
    assert rough is not None
    steps = rough.series["loss"].steps
    assert (len(steps), steps, steps[0], steps[-1]) == (101, sorted(set(steps)), 2, 59_999)
    assert rough.series["loss"].values == [1 / (1 + step) for step in steps]
    assert series.update(ALL, rough.cursor).whole
    assert series.preview(100) is None
    path.write_bytes(lines(train(1)))
    assert MetricSeries(path).preview(100) is None


def test_the_newest_value_of_each_name_is_there_for_the_headline(path: Path) -> None:
    path.write_bytes(lines(evaluation(0), train(1), train(2)))
    series = MetricSeries(path)
    series.update(ALL)
    assert series.newest() == [
        {"step": 0, "epoch": 0.0, "knn_online": 0.0},
        {"step": 2, "epoch": 0.5, "loss": 1 / 3, "images_per_second": 12.0},
    ]
