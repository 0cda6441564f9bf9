"""The wheel holds all that the command needs, and works without a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("all4one", "data_pipelines", "launch", "trainer")
QUICK = (
    "train.max_steps=4",
    "optim.warmup_epochs=0",
    "eval.every_epochs=0",
    "backbone.width=8",
    "method.projector_hidden=32",
    "method.predictor_hidden=32",
    "method.embedding_dim=16",
    "method.queue.size=200",
    "metrics.log_every=1",
    "parallel.torch_threads=1",
)


def output(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints, without line breaks. It sees no module of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files behind."""
    copy = tmp_path_factory.mktemp("copy")
    for part in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, copy)
    folder = tmp_path_factory.mktemp("wheel")
    output(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", folder, cwd=copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """Commands of an environment with the wheel, and with what else this one has but for the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    output(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "--no-deps", "--no-index", wheel),
        cwd=folder,
    )
    # a path that a .pth file names is searched last, and .pth files in it are not read: no finder of the checkout
    where = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    Path(where, "others.pth").write_text("".join(f"{path}\n" for path in others))
    Path(where, "configs").mkdir()  # of another package
    return folder / "bin"


def test_it_holds_code_recipes_pages_types_and_the_license(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    recipes = {f"all4one/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    types = {f"{package}/py.typed" for package in PACKAGES}
    assert {"all4one/configs/base.yaml", "all4one/configs/studies/objectives.yaml"} <= recipes
    data = {
        "launch/report/page.css",
        "launch/report/page.html.jinja",
        *(
            str(p.relative_to(ROOT))
            for p in (ROOT / "launch/serve").iterdir()
            if p.suffix in (".css", ".html", ".js")
        ),
        "trainer/profiling/dry_run/fake_cuda.c",
    }
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == code | recipes | types | data
    assert [name for name in about if name.endswith("licenses/LICENSE")]
    (metadata,) = (zipfile.ZipFile(wheel).read(name).decode() for name in about if name.endswith("METADATA"))
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_its_command_works_from_an_empty_folder(binaries: Path, tmp_path: Path) -> None:
    def all4one(*arguments: str, code: int = 0) -> str:
        return output(binaries / "all4one", *arguments, cwd=tmp_path, code=code)

    places = (
        "import all4one, data_pipelines, launch, trainer; from trainer.config.recipes import SHIPPED; "
        "print(all4one.__file__, data_pipelines.__file__, launch.__file__, trainer.__file__, SHIPPED)"
    )
    for place in output(binaries / "python", "-c", places, cwd=tmp_path).split():
        assert Path(place).is_relative_to(binaries.parent)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert all4one("--version") == f"all4one {version}"
    assert "imagenet_resnet50" in all4one("train", code=2)
    assert "objectives: " in all4one("study", code=2)
    all4one("data", "build", "digits", "data/digits")
    said = all4one("train", "digits_demo", *QUICK)
    assert "run folder: runs/digits_demo" in said
    assert "data/digits/train │ digits_demo.yaml" in all4one("config", "show", "digits_demo")
    assert "report.html" in all4one("report", "runs/digits_demo")
    assert "digits_demo" in (tmp_path / "runs" / "digits_demo" / "report.html").read_text()
