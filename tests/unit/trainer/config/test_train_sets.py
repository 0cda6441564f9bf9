from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from trainer.config.resume_compat import fingerprint, refuse_changed_training
from trainer.config.schema import data_settings, dump, load_config, parse

WEIGHTED = "data.train=[{path: data/a, weight: 2}, {path: s3://bucket/b, weight: 1}]"


def data(*overrides: str) -> DataSettings:
    return load_config("digits_demo", overrides).data


def test_a_list_mixes_sets() -> None:
    mixed = data(WEIGHTED)
    assert mixed.train_places == (Path("data/a"), "s3://bucket/b")
    assert mixed.train_names == "data/a (weight 2) + s3://bucket/b (weight 1)"
    assert data("data.train=[data/a, {path: data/b}]").train_names == "data/a + data/b"


def test_one_path_is_one_set() -> None:
    assert data("data.train=data/a").train_places == (Path("data/a"),)
    assert data("data.train=data/a").train_names == "data/a"


def test_weights_can_be_overridden_one_by_one() -> None:
    assert data(WEIGHTED, "data.train.1.weight=0.5").train_names.endswith("b (weight 0.5)")


def test_a_mix_is_written_and_read_again() -> None:
    config = load_config("digits_demo", [WEIGHTED])
    assert parse(dump(config), where="again") == config


def test_the_home_folder_is_expanded_in_each_path() -> None:
    assert data("data.train=[~/a, {path: ~/b}]").train_places == (Path.home() / "a", Path.home() / "b")


def test_weights_do_not_change_the_settings_fingerprint_because_sets_are_compared_by_content() -> None:
    assert fingerprint(load_config("digits_demo", [WEIGHTED])) == fingerprint(load_config("digits_demo"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train=[]", "data.train: must list at least one set"),
        ("data.train=[{path: a, weight: -1}]", "data.train.0.weight: must be above 0, not -1"),
        ("data.train=[{path: a, weight: 0}]", "data.train.0.weight: must be above 0, not 0"),
        ("data.train=[{path: a, weight: .inf}]", "data.train.0.weight: must be finite"),
        ("data.train=[{path: a, weight: x}]", "data.train.0.weight: must be a number, not 'x'"),
        ("data.train=[{path: a, wieght: 1}]", "did you mean data.train.0.weight?"),
        ("data.train=[{weight: 1}]", "data.train.0.path: is missing"),
        ("data.train={path: a}", "data.train: must be a list"),
        ("data.train=[[a]]", "data.train.0: must hold settings"),
        ('data.train=[a, "b\\x1b"]', "data.train.1.path: must not contain line breaks"),
        ("data.train=[{path: a}, {path: b, weight: 1}]", "must give a weight to each of its sets or to none"),
        ("data.train=[a, b, a]", "data.train: lists a twice; list it once, with a higher weight"),
        ("data.train=[a, b, ./a]", "data.train: lists a twice"),
        ("data.classes=[]", "data.classes: must have at least 1 items"),
        ("data.classes=cat", "data.classes: must be a list"),
        ("data.max_samples=-1", "data.max_samples: must be at least 0"),
    ],
)
def test_wrong_settings_of_sets_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("digits_demo", [override])
    problems = [line for line in str(error.value).splitlines() if line.startswith("  - ")]
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize("override", ["data.classes=[a]", "data.min_side=9", "data.max_samples=9"])
def test_streams_have_no_parts(override: str) -> None:
    with pytest.raises(UserError, match="classes, min_side and max_samples need reader: index"):
        data_settings("digits_demo", [override, "data.reader=stream", "data.stream.samples=5"])


def test_a_part_of_a_set_is_another_training() -> None:
    before = load_config("digits_demo")
    for override in ("data.classes=[3, 7]", "data.min_side=64", "data.max_samples=100"):
        assert fingerprint(load_config("digits_demo", [override])) != fingerprint(before)
        with pytest.raises(UserError, match=override.partition("=")[0]):
            refuse_changed_training(before, load_config("digits_demo", [override]))
    assert data("data.classes=[3, 7]").classes == ("3", "7")


def test_streams_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match="streams cannot be mixed; use indexed sets"):
        data_settings("digits_demo", [WEIGHTED, "data.reader=stream", "data.stream.samples=5"])
