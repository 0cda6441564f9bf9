import pytest

from launch.commands.renamed_options import value_of


@pytest.mark.parametrize(
    ("new", "earlier", "value"), [(None, 3, 3), (2, 3, 2), (False, True, True), ("a", "b", "a")]
)
def test_an_earlier_name_gives_the_value_and_a_notice(
    new: object, earlier: object, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert value_of(new, earlier, was="--epochs", now="--linear-epochs") == value
    assert capsys.readouterr().err == "notice: --epochs is now --linear-epochs (the old name still works)\n"


@pytest.mark.parametrize(("new", "earlier"), [(None, None), (2, None), (True, False)])
def test_without_an_earlier_name_there_is_no_notice(
    new: object, earlier: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert value_of(new, earlier, was="--epochs", now="--linear-epochs") == new
    assert capsys.readouterr().err == ""
