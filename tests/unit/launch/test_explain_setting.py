from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.commands.explain_setting import explain


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("optim.lr", ["optim.lr: Learning rate", "takes: a number, above 0", "default: 1.0"]),
        ("method.neighbours", ["method.num_neighbors: ", "takes: an integer"]),
        ("data.views.0.size", ["takes: an integer, at least 8 and at most 1024"]),
        ("checkpoint", ["  checkpoint.keep_last: Number of newest checkpoints to keep."]),
        ("metrics.wandb", ["takes: off or offline or online"]),
        ("data.train", ["  data.train.weight: Weight of the set.", "default: data/train"]),
        ("data.train.1.weight", ["takes: a number or null, above 0", "default: null"]),
    ],
)
def test_a_setting_is_explained_from_the_schema(
    key: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    explain(key, None)
    said = capsys.readouterr().out
    for line in lines:
        assert line in said


def test_the_recipe_gives_the_value_and_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    explain("data.train", "cifar10")
    assert "in cifar10: data/cifar10/train" in capsys.readouterr().out
    explain("data.train.weight", "cifar10")
    assert "in cifar10" not in capsys.readouterr().out


@pytest.mark.parametrize(("key", "meant"), [("lr", "optim.lr"), ("optim.bettas", "optim.betas")])
def test_an_unknown_setting_names_the_one_that_is_meant(key: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(key, None)
    assert meant in caught.value.fix


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("data.views.size", "in cifar10, data.views.0.size: 32\nin cifar10, data.views.1.size: 32\n"),
        ("data.views.1.size", "in cifar10: 32\n"),
        ("data.views.1.solarise", "in cifar10: 0.2\n"),
        ("optim.betas", "in cifar10: [0.9, 0.999]\n"),
        ("data.views.0", "  data.views.0.size: Side length"),
        ("data.views", "  data.views.size: Side length"),
    ],
)
def test_settings_of_the_items_of_a_list_have_a_value_for_each(
    key: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(key, "cifar10")
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("key", ["data.views.2.size", "data.views.2", "data.views.99.solarise"])
def test_an_index_out_of_range_is_an_error(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"data\.views has 2 items"):
        explain(key, "cifar10")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "key",
    ["train.0.epochs", "0", "data.views.0.0.size", "optim.lr.0", "optim.betas.x", "", ".", "data..views"],
)
@pytest.mark.parametrize("recipe", [None, "cifar10"])
def test_an_index_where_there_is_no_list_is_no_setting(key: str, recipe: str | None) -> None:
    with pytest.raises(UserError, match="there is no setting"):
        explain(key, recipe)


def test_an_old_name_of_the_recipe_s_method_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("base: cifar10\nmethod: {name: nnclr, queue: {size: 77}}\n")
    explain("method.queue.length", str(tmp_path / "own.yaml"))
    said = capsys.readouterr().out
    assert "method.queue.size: " in said
    assert "77" in said
