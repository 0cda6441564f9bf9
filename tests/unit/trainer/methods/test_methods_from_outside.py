"""Methods of other packages: found by their entry points, and told apart by name."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from trainer import methods
from trainer.methods import GROUP, MethodSettings, available

METHOD = '''
from typing import Literal
from trainer.methods.base import MethodSettings

class OutsideSettings(MethodSettings):
    """A method of another package."""
    name: Literal["{name}"] = "{name}"
    """The method."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, in which a test may install one; its methods are gone afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    methods._import_from_outside.cache_clear()
    yield tmp_path
    for name in ("outside_method", "outside_twin"):
        sys.modules.pop(name, None)
    for settings in MethodSettings.__subclasses__():
        if settings.__module__.startswith("outside"):  # Python keeps the class for a while
            settings.model_fields["name"].default = f"gone {id(settings)}"
    methods._import_from_outside.cache_clear()
    importlib.invalidate_caches()


def install(folder: Path, module: str, source: str) -> None:
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{module} = {module}\n")
    importlib.invalidate_caches()


def test_an_installed_package_adds_its_method(package: Path) -> None:
    install(package, "outside_method", METHOD.format(name="outside"))
    assert available()["outside"].__module__ == "outside_method"


def test_two_methods_of_one_name_are_an_error_that_names_both_places(package: Path) -> None:
    install(package, "outside_twin", METHOD.format(name="byol"))
    with pytest.raises(UserError, match="two methods are called 'byol'") as caught:
        available()
    assert "outside_twin.py" in str(caught.value)
    assert "byol.py" in str(caught.value)


def test_a_package_that_cannot_be_imported_is_named(package: Path) -> None:
    install(package, "outside_method", "import a_module_that_nobody_has\n")
    with pytest.raises(UserError, match="a_module_that_nobody_has") as caught:
        available()
    assert "package outside_method" in str(caught.value)
