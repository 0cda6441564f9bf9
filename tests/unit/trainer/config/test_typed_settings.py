"""Settings take what was typed: text as text, numbers as numbers, paths from the home folder."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from data_pipelines.urls import Place
from trainer.config.schema import load_config
from trainer.runs.run_folder import create_run


class Sample(Settings):
    text: str = ""
    texts: tuple[str, ...] = ()
    named: dict[str, str] = {}
    number: float = 0
    count: int | None = None
    flag: bool = False
    place: Place | None = None


@pytest.mark.parametrize(
    "text",
    [
        "0123",
        "1:30",
        "1e5",
        "yes",
        "No",
        "true",
        "True",
        "FALSE",
        "2026-11-28",
        "1.50",
        "-0",
        "0x10",
        "@a",
        "a #b",
        ".5",
        "+3",
        "1_0",
        ".inf",
    ],
)
def test_text_is_taken_as_typed(tmp_path: Path, text: str) -> None:
    assert load_config("digits_demo", [f"slurm.account={text}"]).slurm.account == text
    recipe = tmp_path / "recipe.yaml"
    if not text.startswith("@") and " #" not in text:  # these need quotes in a file
        recipe.write_text(f"base: digits_demo\nslurm: {{account: {text}}}\n")
        assert load_config(recipe).slurm.account == text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=true", "train.epochs: must be an integer, not true"),
        ("train.epochs=True", "train.epochs: must be an integer, not 'True'"),
        ("train.epochs=0123", "train.epochs: must be an integer without leading zeros, not '0123'"),
        ("train.epochs=1:30", "train.epochs: must be an integer, not '1:30'"),
        ("train.epochs=0x10", "train.epochs: must be an integer, not '0x10'"),
        ("train.epochs=1.5", "train.epochs: must be an integer, not 1.5"),
        ("optim.lr=false", "optim.lr: must be a number, not false"),
        ("optim.lr=fast", "optim.lr: must be a number, not 'fast'"),
        ("optim.lr=-1", "optim.lr: must be above 0, not -1"),
        ("metrics.tensorboard=5", "metrics.tensorboard: must be true or false, not 5"),
        ("metrics.wandb=maybe", "metrics.wandb: must be 'off', 'offline' or 'online', not 'maybe'"),
        ("data.views.0.crop_scale=[1]", "data.views.0.crop_scale.1: is missing"),
        ("train=5", "train: must hold settings, each with a value, not 5"),
    ],
)
def test_what_is_no_number_is_refused_in_our_words(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("digits_demo", [override])
    assert said in caught.value.what
    assert "Input" not in caught.value.what


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "False", "TRUE"])
def test_truth_values_have_their_usual_words(word: str) -> None:
    wanted = word.lower() in ("yes", "on", "true")
    assert load_config("digits_demo", [f"metrics.tensorboard={word}"]).metrics.tensorboard is wanted


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("yes", True),
        ("off", False),
        ("true", True),
        ("False", False),
        ("'yes'", "yes"),
        ("END", "END"),
        ("3", 3),
        ("0123", "0123"),
        ("12e4567", "12e4567"),
        ("1.5", "1.5"),
        ("2e3", "2e3"),
        ("-0", "-0"),
        ("+5", "+5"),
    ],
)
def test_options_of_sbatch_are_switched_by_words_and_quotes_make_text(typed: str, value: Any) -> None:
    found = load_config("digits_demo", [f"slurm.extra.some={typed}", f"slurm.extra={{other: {typed}}}"])
    assert found.slurm.extra == {"some": value, "other": value}
    assert type(found.slurm.extra["other"]) is type(value)
    assert load_config("digits_demo", [f"slurm.extra.some={typed}"]).slurm.extra == {"some": value}


@pytest.mark.parametrize("typed", ["12e4567", "2e3", "0o17", "08", "y", "'3'", "3", "yes", "'yes'", "+5"])
def test_options_of_sbatch_are_stored_as_typed(typed: str, tmp_path: Path) -> None:
    config = load_config("digits_demo", [f"slurm.extra.some={typed}", f"run.folder={tmp_path}"])
    run = create_run(config, "digits_demo")
    assert run.read_config().slurm.extra == config.slurm.extra
    stored = yaml.safe_load(run.config.read_text())["slurm"]["extra"]
    assert stored == config.slurm.extra
    assert type(stored["some"]) is type(config.slurm.extra["some"])


@pytest.mark.parametrize("word", ["off", "Off", "OFF", "no", "No", "false", "False"])
def test_a_word_of_the_same_meaning_is_the_choice(word: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"base: digits_demo\nmetrics: {{wandb: {word}}}\n")
    assert load_config(tmp_path / "own.yaml").metrics.wandb == "off"
    assert load_config("digits_demo", [f"metrics.wandb={word}"]).metrics.wandb == "off"


@pytest.mark.parametrize("word", ["yes", "on", "true", "'no'", "0"])
def test_a_word_of_another_meaning_is_no_choice(word: str) -> None:
    with pytest.raises(UserError, match=r"metrics\.wandb: must be 'off', 'offline' or 'online'"):
        load_config("digits_demo", [f"metrics.wandb={word}"])


@pytest.mark.parametrize(
    "key", ["run.folder", "data.train", "data.validation", "data.cache", "backbone.init"]
)
@pytest.mark.parametrize("typed", ["123", "1e5", "1.50", "yes", "true", "True", "0123"])
def test_a_path_is_taken_as_typed(key: str, typed: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    (tmp_path / "own.yaml").write_text(f"base: digits_demo\n{section}: {{{name}: {typed}}}\n")
    for config in (load_config("digits_demo", [f"{key}={typed}"]), load_config(tmp_path / "own.yaml")):
        assert getattr(getattr(config, section), name) == Path(typed)


@pytest.mark.parametrize("text", ["# x", "- a", "a: b", "5 # x", "!!int 3", "*a", "| a"])
def test_a_description_needs_no_quotes(text: str) -> None:
    assert load_config("digits_demo", [f"description={text}"]).description == text


def test_nothing_is_empty_text_or_no_value() -> None:
    for nothing in ("", "~", "null", "Null"):
        assert load_config("digits_demo", [f"run.name={nothing}"]).run.name == ""
    assert load_config("digits_demo", ["data.validation="]).data.validation is None


def test_items_of_lists_and_mappings_are_taken_as_typed() -> None:
    from data_pipelines.yaml_reader import parse_yaml

    found = Sample.model_validate(parse_yaml("{texts: [1e5, 007, true], named: {a: 1.0}, text: 3}"))
    assert found.texts == ("1e5", "007", "true")
    assert found.named == {"a": "1.0"}
    assert found.text == "3"


@pytest.mark.parametrize(
    "key", ["run.folder", "data.train", "data.validation", "data.cache", "backbone.init"]
)
def test_the_home_folder_is_expanded_in_every_path(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    value: Any = load_config("digits_demo", [f"{key}=~/x/y"])
    for part in key.split("."):
        value = getattr(value, part)
    assert value == tmp_path / "x" / "y"


def test_the_home_of_an_unknown_user_is_an_error() -> None:
    with pytest.raises(UserError, match="unknown user"):
        load_config("digits_demo", ["run.folder=~nobody-of-this-name/x"])


def test_paths_become_absolute_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(
        "digits_demo", ["data.train=a/b", "data.validation=s3://bucket/x", "backbone.init=w.pt"]
    )
    found = config.with_absolute_paths()
    assert found.data.train == tmp_path / "a" / "b"
    mixed = load_config("digits_demo", ["data.train=[a/b, s3://bucket/x]"]).with_absolute_paths()
    assert mixed.data.train_places == (tmp_path / "a" / "b", "s3://bucket/x")
    assert found.data.validation == "s3://bucket/x"
    assert found.backbone.init == tmp_path / "w.pt"
    assert found.run.folder == tmp_path / "runs"


@pytest.mark.parametrize(
    "override",
    [
        'slurm.account="lab\\n#SBATCH --uid=0"',
        'slurm.extra={mail-type: "END\\nrm -r x"}',
        'slurm.srun_args=["a\\nb"]',
        'run.folder="runs\\nx"',
        'data.train="a\\x1b[2J"',
        'run.tags=["a\\x07"]',
    ],
)
def test_control_characters_are_refused(override: str) -> None:
    with pytest.raises(UserError, match="must not contain line breaks or other control characters"):
        load_config("digits_demo", [override])


def test_a_description_and_the_lines_of_a_shell_may_break() -> None:
    config = load_config("digits_demo", ['description="a\\nb"', 'slurm.setup=["module load x\\nexport A=1"]'])
    assert config.description == "a\nb"
    assert config.slurm.setup == ("module load x\nexport A=1",)
