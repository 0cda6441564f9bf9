import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from launch.slurm.sweep import grid_points, names


def test_every_combination_is_a_point_and_the_last_setting_changes_fastest() -> None:
    found = grid_points(["optim.lr=0.3,1.0", "run.seed=0,1"])
    assert found == [
        ["optim.lr=0.3", "run.seed=0"],
        ["optim.lr=0.3", "run.seed=1"],
        ["optim.lr=1.0", "run.seed=0"],
        ["optim.lr=1.0", "run.seed=1"],
    ]
    assert names(found) == ["lr=0.3,seed=0", "lr=0.3,seed=1", "lr=1.0,seed=0", "lr=1.0,seed=1"]


def test_commas_in_brackets_and_quotes_part_no_values() -> None:
    assert grid_points(["data.mean=[1,2,[3,4]],null"]) == [["data.mean=[1,2,[3,4]]"], ["data.mean=null"]]
    assert grid_points(["run.name='a,[b', c"]) == [["run.name='a,[b'"], ["run.name=c"]]


def test_names_tell_keys_and_values_apart() -> None:
    assert names(grid_points(["backbone.name=resnet18,resnet50", "method.name=all4one"])) == [
        "backbone.name=resnet18,method.name=all4one",
        "backbone.name=resnet50,method.name=all4one",
    ]
    assert names(grid_points(["data.train=a/b,a-b"])) == ["000,train=a-b", "001,train=a-b"]


@pytest.mark.parametrize(
    ("sweeps", "said"),
    [
        (["optim.lr"], "key=value"),
        (["optim.lr=0.1,"], "key=value"),
        (["=1,2"], "key=value"),
        (["optim.lr=1", "optim.lr=2"], "optim.lr twice"),
        (["optim.lr=1,1"], "a value twice"),
        (["a=" + ",".join(map(str, range(40))), "b=" + ",".join(map(str, range(40)))], "1600 runs"),
    ],
)
def test_a_wrong_sweep_is_refused(sweeps: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        grid_points(sweeps)


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=5, unique=True), min_size=1, max_size=4))
def test_all_points_differ_and_so_do_their_names(axes: list[list[int]]) -> None:
    found = grid_points([f"group.key{n}={','.join(map(str, values))}" for n, values in enumerate(axes)])
    expected = 1
    for values in axes:
        expected *= len(values)
    assert len({tuple(point) for point in found}) == len(set(names(found))) == expected
