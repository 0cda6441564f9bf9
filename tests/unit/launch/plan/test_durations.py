import pytest

from data_pipelines.errors import UserError
from launch.plan.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500h", 1.8e6),
        ("90s", 90),
        ("0.35s", 0.35),
        ("350ms", 0.35),
        ("5 min", 300),
        ("2d", 172_800),
        (".5m", 30),
    ],
)
def test_units(text: str, seconds: float) -> None:
    assert parse_duration(text, "--mtbf") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5 parsecs", "500", "-5h", "", "h", "1e3s", "inf", "5h30"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration") as raised:
        parse_duration(text, "--mtbf")
    assert "--mtbf=500h" in str(raised.value)
