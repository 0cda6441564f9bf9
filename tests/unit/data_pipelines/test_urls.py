from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from data_pipelines.settings import DataSettings
from data_pipelines.urls import Place, Url, place, shown, without_signature

URLS = ["s3://bucket/imagenet/train", "https://host:8080/a//b/", "hf://datasets/me/set", "pipe:cat /a//b.tar"]


class Model(BaseModel):
    where: Place


@pytest.mark.parametrize("text", URLS)
def test_a_url_stays_as_it_was_given(text: str) -> None:
    model = Model.model_validate({"where": text})
    assert isinstance(model.where, Url)
    assert model.model_dump(mode="json") == model.model_dump() == {"where": text}
    assert Model.model_validate_json(model.model_dump_json()) == model


@pytest.mark.parametrize("text", ["data/train", "/data/train", "../x", "C:x"])
def test_all_else_is_a_path(text: str) -> None:
    model = Model.model_validate({"where": text})
    assert model.where == Path(text)
    assert model.model_dump(mode="json") == {"where": text}
    assert place(Path(text)) == Path(text)


@pytest.mark.parametrize("wrong", [3, "", None, ["a"]])
def test_what_is_neither_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match="must be a folder or a URL"):
        Model.model_validate({"where": wrong})


def test_names_are_put_behind_a_url() -> None:
    assert Url("s3://bucket/set/") / "a.tar" == "s3://bucket/set/a.tar"
    assert isinstance(Url("s3://bucket/set") / "a.tar", Url)


def test_a_query_stays_at_the_end() -> None:
    assert Url("https://host/set/?sig=a/b") / "a b.tar" == "https://host/set/a%20b.tar?sig=a/b"
    assert shown("https://host/set/a.tar?sig=a/b") == "https://host/set/a.tar"
    assert shown("a?.tar") == "a?.tar"


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("https://h/a.tar?X-Amz-Date=1&X-Amz-Signature=2", False),
        ("https://h/a.tar?sv=1&sig=2", False),
        ("https://h/a.tar?download=true", True),
        ("s3://b/a.tar", True),
    ],
)
def test_only_signatures_are_left_out(url: str, stays: bool) -> None:
    assert (without_signature(url) == url) is stays


def test_the_settings_take_both() -> None:
    settings = DataSettings(train="s3://bucket/train", validation="data/validation")
    assert (settings.train, settings.validation) == ("s3://bucket/train", Path("data/validation"))
    assert DataSettings.model_validate(settings.model_dump(mode="json")) == settings
