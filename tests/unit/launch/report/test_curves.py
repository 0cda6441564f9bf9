"""Values on record become curves, under the group that they belong to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.report.curves import POINTS, Curve, curves, grouped, thinned
from launch.report.facts import read_facts
from launch.report.metrics import TAU
from trainer.config.schema import load_config
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder, create_run


def a_run(folder: Path, *overrides: str) -> RunFolder:
    config = load_config("digits_demo", [f"run.folder={folder}", "run.name=one", *overrides])
    run = create_run(config, "one")
    run.note("start", attempt=1, world_size=1)
    run.note("ready", attempt=1, step=0, total_steps=8, replayed=0)
    append_record(run.metrics, {"kind": "eval", "step": 0, "epoch": 0.0, "knn_online": 0.5})
    for step in (1, 5):
        record = {"kind": "train", "step": step, "epoch": step / 2, "loss": 3.0 / step, "neighbor": 1.0}
        append_record(run.metrics, record | {"time": {"images_per_second": 100.0}})
    return run


def test_every_value_on_record_is_a_curve(tmp_path: Path) -> None:
    [facts] = read_facts([a_run(tmp_path)])
    found = curves(facts)
    assert found["loss"] == Curve([0.5, 2.5], [3.0, 0.6])
    assert found["images_per_second"] == Curve([0.5, 2.5], [100.0, 100.0])
    assert found["knn_online"] == Curve([0.0], [0.5])
    assert found.keys() == {"loss", "neighbor", "images_per_second", "knn_online", TAU}


def test_tau_is_what_the_copy_followed_with(tmp_path: Path) -> None:
    [facts] = read_facts([a_run(tmp_path, "method.momentum=0.9")])
    expected = 1 - (1 - 0.9) * (torch.cos(torch.tensor(torch.pi, dtype=torch.float64) * 4 / 8) + 1) / 2
    assert curves(facts)[TAU].epochs == [0.5, 2.5]
    assert curves(facts)[TAU].values == pytest.approx([0.9, float(expected)], abs=1e-12)


def test_tau_ends_where_the_method_says(tmp_path: Path) -> None:
    [facts] = read_facts([a_run(tmp_path, "method.name=msf", "method.queue.size=64")])
    assert curves(facts)[TAU].values == [0.99, 0.99]


def test_a_method_without_an_averaged_copy_has_no_tau(tmp_path: Path) -> None:
    [facts] = read_facts([a_run(tmp_path, "method.name=barlow_twins")])
    assert TAU not in curves(facts)


def test_values_stand_under_their_groups_and_those_of_a_new_method_under_losses() -> None:
    names = [
        "invariance",
        "loss",
        "z_rank",
        "lr",
        "data_wait",
        "knn_momentum",
        "knn_online",
        "centroid_share",
    ]
    assert grouped(names) == {
        "Evaluation during training": ["knn_online", "knn_momentum"],
        "Losses": ["loss", "invariance"],
        "Health": ["z_rank", "centroid_share"],
        "Optimization": ["lr"],
        "Speed": ["data_wait"],
    }


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 2**16), st.sampled_from([POINTS, 60]))
def test_thinning_keeps_ends_peaks_order_and_short_curves(count: int, seed: int, points: int) -> None:
    values = np.random.default_rng(seed).normal(size=count).tolist()
    curve = Curve([float(i) for i in range(count)], values)
    thin = thinned(curve, points)
    assert len(thin.values) <= points
    assert thin.epochs == sorted(set(thin.epochs))
    assert all(values[int(epoch)] == value for epoch, value in zip(*thin, strict=True))
    if count <= points:
        assert thin == curve
        return
    assert (thin.epochs[0], thin.epochs[-1]) == (0.0, count - 1.0)
    stretches = points // 2 - 1
    for part in range(stretches):
        stretch = values[part * count // stretches : (part + 1) * count // stretches]
        assert {min(stretch), max(stretch)} <= set(thin.values)
