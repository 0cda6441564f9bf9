"""The generated reference, without the site around it."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from launch.commands.explain_setting import explain

GENERATE = Path(__file__).resolve().parents[3] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("generate", GENERATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(page: str, name: str) -> list[str]:
    """The cells of the row of a setting or an option."""
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    return row.removeprefix("| ").removesuffix(" |").split(" | ")


@pytest.mark.parametrize(
    "key", ["optim.lr", "optim.betas", "data.decode_threads", "slurm.extra", "metrics.wandb", "run.name"]
)
def test_the_reference_and_the_command_describe_a_setting_in_the_same_words(
    key: str, generate: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(key, None)
    takes = capsys.readouterr().out.partition("takes: ")[2].splitlines()[0]
    assert cells(generate.settings_page(), key)[1] == takes


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--nproc", "an integer, at least 1"),
        ("--quality", "an integer, at least 1 and at most 100"),
        ("--time", "`90m|12h|2d`"),
        ("--decode, --no-decode", ""),
        ("--map", "umap or t-sne or pca"),
    ],
)
def test_options_are_described_in_these_words_too(option: str, value: str, generate: ModuleType) -> None:
    assert cells(generate.cli_page(), option)[1].strip() == value


def test_the_page_for_users_of_other_projects_names_settings_that_exist(generate: ModuleType) -> None:
    page = (GENERATE.parent / "how-to" / "coming_from_others.md").read_text()
    first_cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    keys = [key for cell in first_cells for key in re.findall(r"`([a-z_.]+)`", cell)]
    assert len(keys) > 30
    known = set(re.findall(r"^\| `([a-z_.N]+)` \|", generate.settings_page(), re.MULTILINE))
    # Keys of a view come without their section. `count` is a key of recipes only, which is expanded.
    assert {key for key in keys if key not in known and f"data.views.N.{key}" not in known} == {"count"}
