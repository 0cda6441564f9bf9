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


@pytest.mark.parametrize(("key", "meant"), [("lr", "optim.lr"), ("optim.bettas", "optim.betas")])
def test_an_unknown_setting_names_the_one_that_is_meant(key: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(key, None)
    assert meant in caught.value.fix
