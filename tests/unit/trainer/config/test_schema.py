from pathlib import Path

import pytest
import yaml

from data_pipelines.errors import UserError
from trainer.config.recipes import SHIPPED, merge, read_chain, shipped_recipes
from trainer.config.schema import dump, load_config, parse
from trainer.methods import available

RECIPES = sorted(shipped_recipes())


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_valid_described_and_round_trip(name: str) -> None:
    config = load_config(name)
    assert config.description
    assert config == parse(yaml.safe_load(yaml.safe_dump(dump(config))), where="a copy")
    assert shipped_recipes()[name] == config.description


def test_the_recipes_that_are_promised_are_there() -> None:
    expected = {"digits_demo", "cifar10", "cifar100", "imagenet100_resnet18", "imagenet_resnet50"}
    assert expected <= set(RECIPES)
    for method in (
        "simclr",
        "byol",
        "moco_v3",
        "vicreg",
        "swav",
        "dino",
        "msf",
        "lejepa",
        "resa",
        "intl",
        "simsiam",
    ):
        assert load_config(f"cifar10_{method}").method.name == method


def test_published_numbers_of_the_cifar_and_imagenet100_recipes() -> None:
    for name, epochs, size in (
        ("cifar10", 1000, 32),
        ("cifar100", 1000, 32),
        ("imagenet100_resnet18", 400, 224),
    ):
        config = load_config(name)
        assert (config.train.epochs, config.train.global_batch, config.data.views[0].size) == (
            epochs,
            256,
            size,
        )
        optim = config.optim
        assert (optim.name, optim.lr, optim.momentum, optim.trust_coefficient, optim.clip_lr) == (
            "lars",
            1.0,
            0.9,
            0.02,
            True,
        )
        assert (optim.weight_decay, optim.transformer_lr, optim.classifier_lr) == (1e-5, 0.1, 0.1)
        assert (optim.warmup_epochs, optim.warmup_start_lr, optim.reference_batch) == (10, 3e-5, 256)
        method = config.method.model_dump()
        assert (method["projector_hidden"], method["predictor_hidden"], method["embedding_dim"]) == (
            2048,
            4096,
            256,
        )
        assert (method["queue"]["size"], method["num_neighbors"]) == (98304, 5)
        assert (method["temperature"], method["centroid_temperature"], method["momentum"]) == (0.2, 0.1, 0.99)
        assert [v.solarize_prob for v in config.data.views] == [0.0, 0.2]
        blur = [1.0, 0.1] if size == 224 else [0.0, 0.0]
        assert [v.blur_prob for v in config.data.views] == blur


def test_imagenet_scales_by_the_linear_rule() -> None:
    config = load_config("imagenet_resnet50")
    assert config.train.global_batch == 4096
    assert config.train.epochs == 100
    assert config.optim.lr * config.train.global_batch / config.optim.reference_batch == 16.0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.learning_rate=1", "optim.learning_rate: unknown key"),
        ("optim.lrr=1", "did you mean optim.lr?"),
        ("lr=1", "did you mean optim.lr?"),
        ("method.projector_hiden=1", "did you mean method.projector_hidden?"),
        ("global_batch=1", "did you mean train.global_batch?"),
        ("data.views.0.sise=32", "did you mean data.views.0.size?"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=0", "must be at least 1"),
        ("method.name=byoll", "there is no method 'byoll'; available methods: all4one, barlow_twins, byol"),
        ("method.queue.size=3", "neighbors (5) must not exceed queue.size (3)"),
        ("method.transformer_heads=7", "must divide embedding"),
        ("train.grad_accum_steps=3", "nearest: 255 and 258"),
        ("data.views.5.size=32", "not an index of a list with 2 items"),
        ("train.precision=fp8", "'fp32', 'bf16' or 'fp64'"),
        ("optim.lr=.nan", "finite"),
        ("optim.lr", "not of the form key=value"),
        ("optim.betas=[0.9, 1.5]", "optim.betas.1: must be below 1,"),
        ("method.transformer_dropout=1.0", "must be below 1,"),
        ("method=byoll", "there is no method 'byoll'"),
        ("method.name=[a]", "there is no method ['a']"),
        ("method=[a]", "there is no method ['a']"),
        ("parallel.zero_stage=3", "which average those weights, would not be updated: it must be 0, 1 or 2"),
        ("train.precision=fp16", "bf16 is as fast and has the range of fp32"),
        ("parallel.gradient_dtype=fp16", "parallel.gradient_dtype: must be 'fp32' or 'bf16'"),
    ],
)
def test_wrong_settings_are_named_with_what_was_meant(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("imagenet100_resnet18", [override])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["method.name=nnclr"], "must list 2 views for method nnclr, not 3"),
        (
            ["method.neighbor_weight=0", "method.centroid_weight=0"],
            "must list 2 views for method all4one, not 3",
        ),
        ([], ""),
    ],
)
def test_a_method_says_how_many_views_it_takes(method: list[str], said: str) -> None:
    given = [*method, "data.views=[{size: 32}, {size: 32}, {size: 16}]"]
    if not said:
        assert load_config("cifar10", given).data.sizes == [32, 16]
        return
    with pytest.raises(UserError, match=said):
        load_config("cifar10", given)


def test_off_is_a_word_in_yaml_too(tmp_path: Path) -> None:
    for value in ("off", "offline"):
        assert load_config("cifar10", [f"metrics.wandb={value}"]).metrics.wandb == value
    (tmp_path / "own.yaml").write_text("base: cifar10\nmetrics: {wandb: off}\nrun: {tags: [narrow, 2026]}\n")
    config = load_config(tmp_path / "own.yaml")
    assert (config.metrics.wandb, config.run.tags) == ("off", ("narrow", "2026"))
    assert parse(yaml.safe_load(yaml.safe_dump(dump(config))), where="") == config


@pytest.mark.parametrize("option", ["parallel.zero_stage=1", "parallel.gradient_dtype=bf16"])
def test_float64_is_refused_where_something_would_be_rounded(option: str) -> None:
    load_config("cifar10", ["train.precision=fp32", option])
    with pytest.raises(UserError, match=r"fp64 .*" + option.split("=")[0]):
        load_config("cifar10", ["train.precision=fp64", option])


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        load_config("cifar10", ["optim.lrr=1", "train.epochs=0"])
    assert "optim.lrr" in str(error.value)
    assert "train.epochs" in str(error.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean cifar10"):
        load_config("cifar11")


def test_overrides_reach_nested_values_lists_and_numbers() -> None:
    config = load_config("cifar10", ["optim.lr=1e-3", "data.views.1.size=24", "method.queue.size=77"])
    assert config.optim.lr == 1e-3
    assert [v.size for v in config.data.views] == [32, 24]
    assert config.method.model_dump()["queue"]["size"] == 77


def test_a_component_named_anew_starts_from_its_own_defaults() -> None:
    below = {
        "method": {"name": "all4one", "num_neighbors": 3},
        "optim": {"name": "lars", "trust_coefficient": 1},
    }
    above = {"method": {"name": "nnclr"}, "optim": {"trust_coefficient": 2}}
    assert merge(below, above) == {
        "method": {"name": "nnclr"},
        "optim": {"name": "lars", "trust_coefficient": 2},
    }


@pytest.mark.parametrize("name", sorted(available()))
def test_every_method_can_be_chosen_by_name(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"base: cifar10\nmethod: {{name: {name}}}\n")
    assert load_config(recipe).method.name == name
    for shipped in RECIPES:
        assert load_config(shipped, [f"method.name={name}"]).method.name == name


@pytest.mark.parametrize("choice", ["optim=adamw", "optim.name=adamw"])
def test_what_is_set_before_a_component_is_named_is_of_that_component(choice: str) -> None:
    config = load_config("cifar10", ["optim.lr=0.003", choice])
    assert (config.optim.name, config.optim.lr) == ("adamw", 0.003)


def test_overrides_that_name_another_component_start_from_its_defaults() -> None:
    config = load_config("cifar10", ["optim.lr=0.125", "optim.name=adamw", "method.name=nnclr"])
    assert (config.optim.name, config.optim.lr, config.optim.trust_coefficient) == ("adamw", 0.125, 0.02)
    assert config.optim.warmup_epochs == 10
    assert config.method.model_dump()["temperature"] == 0.1
    again = load_config("cifar10", ["optim.name=lars", "method.name=all4one"])
    assert again == load_config("cifar10")


def test_a_key_of_another_method_is_not_suggested_as_itself() -> None:
    with pytest.raises(UserError) as error:
        load_config("cifar10", ["method.name=barlow_twins", "method.predictor_hidden=8"])
    assert "did you mean method.projector_hidden?" in str(error.value)


def test_a_name_of_digits_is_a_name() -> None:
    assert load_config("cifar10", ["run.name=2024"]).run.name == "2024"


def test_bases_in_a_circle_and_broken_files_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b\n")
    (tmp_path / "b.yaml").write_text("base: a\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match="form a cycle"):
        read_chain(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="mapping of keys to values"):
        read_chain(tmp_path / "list.yaml")
    with pytest.raises(UserError, match="is not valid YAML"):
        read_chain(tmp_path / "broken.yaml")


def test_every_setting_has_a_description() -> None:
    from pydantic import BaseModel

    from trainer.config.schema import Config

    seen: set[type[BaseModel]] = set()

    def check(model: type[BaseModel]) -> None:
        seen.add(model)
        for name, field in model.model_fields.items():
            annotation = field.annotation
            nested = isinstance(annotation, type) and issubclass(annotation, BaseModel)
            assert nested or field.description, f"{model.__name__}.{name} has no docstring"
            if nested and annotation not in seen:
                check(annotation)

    check(Config)
    for settings in available().values():
        check(settings)


def test_base_is_not_offered_as_a_recipe() -> None:
    assert (SHIPPED / "base.yaml").is_file()
    assert "base" not in RECIPES


@pytest.mark.parametrize("recipe", ["cifar10", "adamw"])
def test_settings_of_a_component_do_not_select_another(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "adamw.yaml").write_text("base: cifar10\noptim: {name: adamw, lr: 0.01, betas: [0.8, 0.9]}\n")
    path = tmp_path / "adamw.yaml" if recipe == "adamw" else recipe
    before = load_config(path).optim
    assert load_config(path, ["optim={lr: 0.5}"]).optim == before.model_copy(update={"lr": 0.5})
    assert load_config(path, [f"optim={{name: {before.name}}}"]).optim == before


def test_settings_of_a_component_that_is_given_whole_are_not_lost() -> None:
    given = ["optim.lr=0.5", "optim={name: sgd, momentum: 0.5}"]
    for overrides in (given, given[::-1]):
        optim = load_config("cifar10", overrides).optim
        assert (optim.name, optim.lr, optim.momentum) == ("sgd", 0.5, 0.5)
    with pytest.raises(UserError, match=r"method\.queue: unknown key"):
        load_config("cifar10", ["method.queue.size=32", "method={name: barlow_twins, embedding_dim: 8}"])


def test_a_recipe_may_give_a_component_by_its_name_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: cifar10\nmethod: all4one\noptim: sgd\n")
    config = load_config(recipe)
    assert config.method == load_config("cifar10").method
    assert config.optim == load_config("cifar10", ["optim=sgd"]).optim


def test_the_name_of_a_run_resets_nothing() -> None:
    assert merge({"run": {"name": "a", "seed": 3}}, {"run": {"name": "b"}}) == {
        "run": {"name": "b", "seed": 3}
    }


def test_keys_that_are_numbers_are_unknown_keys(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: cifar10\n1: x\noptim: {2: y}\n")
    with pytest.raises(UserError, match=r"1: unknown key.*\n.*optim\.2: unknown key"):
        load_config(recipe)
    with pytest.raises(UserError, match=r"1: is no key.*\n.*optim\.2: is no key"):
        load_config("cifar10", defaults={1: 0, "optim": {2: 0}})
