from pathlib import Path

import pytest
import yaml

from data_pipelines.errors import UserError
from launch.studies.plan import Study, find_study, read_study, runs_of, shipped_studies
from launch.studies.run_study import _folder_name
from trainer.config import schema

GRID = {
    "method": {"all4one": {}, "nnclr": {"method": {"name": "nnclr"}}},
    "size": {"small": {"method": {"embedding_dim": 32}}, "large": {"method": {"embedding_dim": 64}}},
}


def study(**changed: object) -> Study:
    values = {"description": "a study", "recipe": "digits_demo", "grid": GRID, "compare": "method"}
    return Study.model_validate(values | changed)


def test_a_grid_has_a_run_for_each_combination_and_seed(tmp_path: Path) -> None:
    found = runs_of(study(seeds=[0, 7], settings={"train": {"epochs": 3}}), tmp_path, ["optim.lr=0.5"])
    names = [cell.name for cell in found]
    assert names[:4] == [
        "method=all4one,size=small,seed=0",
        "method=all4one,size=large,seed=0",
        "method=nnclr,size=small,seed=0",
        "method=nnclr,size=large,seed=0",
    ]
    assert len(names) == 8
    for cell, config in found.items():
        choices = dict(cell.choices)
        assert config.method.name == choices["method"]
        assert config.method.embedding_dim == {"small": 32, "large": 64}[choices["size"]]
        assert (config.run.name, config.run.seed, config.run.folder) == (cell.name, cell.seed, tmp_path)
        assert (config.train.epochs, config.optim.lr) == (3, 0.5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"compare": "batch"}, "must name an axis"),
        ({"seeds": [1, 1]}, "each seed only once"),
        ({"claims": [{"better": "all4one", "than": "nncrl"}]}, "did you mean nnclr"),
        ({"claims": [{"better": "all4one", "than": "nnclr", "at": {"size": "huge"}}]}, "size=huge"),
        ({"budget": 3}, "budget"),
        ({"grid": {**GRID, "size": {"small": {"run": {"seed": 3}}}}}, "sets run"),
        ({"grid": {**GRID, "size": {"very small": {}}}}, "'very small' is part of the names of run folders"),
    ],
)
def test_a_study_that_is_not_valid_says_why(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump({"description": "a", "recipe": "base", "grid": GRID, "compare": "method"} | changed)
    )
    with pytest.raises(UserError, match="is not a valid study") as raised:
        read_study(path)
    assert said in str(raised.value)


def test_a_name_that_is_almost_right_is_told() -> None:
    with pytest.raises(UserError, match="did you mean low_dimension"):
        find_study("low_dimensions")


@pytest.mark.parametrize("name", shipped_studies())
def test_a_shipped_study_is_valid_and_every_run_is_another(name: str, tmp_path: Path) -> None:
    found = runs_of(read_study(name), tmp_path, [])
    settings = [config.model_dump(exclude={"run": {"name"}}) for config in found.values()]
    assert all(one not in settings[:number] for number, one in enumerate(settings))


def test_every_kind_of_study_is_shipped() -> None:
    kinds = {
        "low_dimension",
        "weak_augmentation",
        "objectives",
        "num_neighbors",
        "positional_encoding",
        "batch_size",
    }
    long = {"low_dimension_10_epochs", "weak_augmentation_10_epochs"}
    imagenet = {f"imagenet100_{kind}" for kind in kinds}
    assert (
        set(shipped_studies())
        == {*kinds, "neighbor_variants", "neighbor_variants_equal_time"} | long | imagenet
    )


@pytest.mark.parametrize("override", ["run.name=first", "run.seed=7", "run.folder=here", "run={seed: 7}"])
def test_what_tells_runs_apart_cannot_be_overridden(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would give all runs of the study the same folder"):
        runs_of(study(), tmp_path, [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.embedding_dim=64", "method.embedding_dim, which size=small sets"),
        ("method.name=nnclr", "method.name, which method=nnclr sets"),
        ("method={name: nnclr}", "method.name, which method=nnclr sets"),
        ("method=nnclr", "method.name, which method=nnclr sets"),
        ("method={embedding: 64}", "method.embedding_dim, which size=small sets"),
    ],
)
def test_what_a_choice_stands_for_cannot_be_overridden(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would override") as raised:
        runs_of(study(), tmp_path, ["optim.lr=1", override])
    assert said in str(raised.value)


def test_other_settings_of_a_component_may_be_overridden(tmp_path: Path) -> None:
    for override in ("method.temperature=0.3", "method={temperature: 0.3}"):
        found = runs_of(study(), tmp_path, [override])
        assert {config.method.model_dump()["temperature"] for config in found.values()} == {0.3}


def test_choices_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "description: d\nrecipe: digits_demo\ncompare: lr\n"
        "grid: {lr: {1: {optim: {lr: 1}}, 1e-3: {optim: {lr: 1e-3}}}, 2: {off: {}}}\n"
        "claims: [{better: 1e-3, than: 1, at: {2: off}}]\n"
    )
    found = runs_of(read_study(path), tmp_path, [])
    assert "lr=1e-3,2=off,seed=0" in {cell.name for cell in found}


def test_old_names_of_keys_and_of_shipped_studies_are_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_TOLD", set())
    path = tmp_path / "mine.yaml"
    values = {"description": "a study", "recipe": "digits_demo", "grid": GRID, "compare": "method"}
    path.write_text(yaml.safe_dump({**values, "judge": "linear_fast"}))
    assert read_study(path).evaluator == "linear_fast"
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1
    assert "judge is now evaluator" in notice
    assert find_study("neighbours") == find_study("num_neighbors")
    assert _folder_name("neighbours") == "neighbours"
    assert "is now num_neighbors" in capsys.readouterr().err
    assert _folder_name("num_neighbors") == "num_neighbors"
    assert _folder_name(str(path)) == "mine"
    assert capsys.readouterr().err == ""
