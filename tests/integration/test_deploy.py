"""The definitions of images in `deploy`, as far as they can be tried without Docker and Apptainer."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP = 'python -m pip install --no-cache-dir "$(ls /wheels/all4one-*.whl)'


def instructions(stage: str) -> list[tuple[str, str]]:
    """The instructions of one stage of the Dockerfile, in order, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line.strip()]
    found: list[tuple[str, str]] = []
    current = ""
    for word, _, rest in lines:
        if word == "FROM":
            current = rest.rpartition(" AS ")[2]
        elif current == stage:
            found.append((word, " ".join(rest.split())))
    return found


def section(name: str) -> list[str]:
    """The lines of one section of the definition for Apptainer, without comments."""
    text = (ROOT / "deploy" / "apptainer.def").read_text()
    body = re.split(r"^%\w+\n", text.partition(f"%{name}\n")[2], flags=re.MULTILINE)[0]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_first_stage_builds_a_whole_wheel_from_what_it_copies(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    runs = []
    for word, rest in instructions("wheel"):
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                assert name in sent, f".dockerignore keeps {name} from Docker"
                if (ROOT / name).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / name, source / target, ignore=ignored)
                else:
                    shutil.copy(ROOT / name, source / target)
        elif word == "RUN":
            runs.append(rest.replace("/wheels", str(wheels)).replace("python ", f"{sys.executable} ", 1))
    (command,) = runs
    subprocess.run(shlex.split(command), cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("all4one-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = ("all4one", "data_pipelines", "trainer", "launch")
    code = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}
    recipes = {f"all4one/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert code | recipes <= names


def test_all_images_install_the_same_packages() -> None:
    (base,) = (rest for word, rest in instructions("base") if word == "RUN")
    post = section("post")
    assert base.split(" && ") == post[:3]
    assert post[3:] == [f'{PIP}"']
    for target in ("cpu", "cuda"):
        assert f'{PIP}$EXTRAS"' in [rest for word, rest in instructions(target) if word == "RUN"]
    assert ("ENV", "PYTHONNOUSERSITE=1") in instructions("base")
    assert section("environment") == ["export PYTHONNOUSERSITE=1"]


def test_the_versions_without_cuda_are_those_of_the_package() -> None:
    (line,) = (rest for word, rest in instructions("cpu") if "TORCH_INDEX" in rest and word == "RUN")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, version in re.findall(r"(torch|torchvision)==([\d.]+)\.\*", line):
        (wanted,) = (one for one in dependencies if re.match(rf"{name}>", one))
        assert wanted.startswith(f"{name}>={version},")


def test_what_checks_an_image_passes_here() -> None:
    commands = [*section("test"), *(rest for _, rest in instructions("cuda") if rest.startswith("all4one"))]
    assert len(commands) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        subprocess.run(command, shell=True, check=True, env=os.environ | {"PATH": path}, capture_output=True)
