from trainer.overrides import set_value


def test_set_value_does_not_lose_siblings() -> None:
    values = {"a": {"b": 1, "c": 2}}
    set_value(values, "a.b=3")
    set_value(values, "d.e=4")
    assert values == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
