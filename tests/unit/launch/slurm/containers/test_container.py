import os
import shlex
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.slurm.containers.container import Container, outermost, runtime_warning
from launch.slurm.submitit_executor import executor, script
from trainer.config.slurm_settings import SlurmSettings


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PATH with an `srun` that says what plugins it has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text("#!/bin/sh\necho '--container-image=PATH [pyxis]'\n")
    (folder / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")
    return folder


def container(tmp_path: Path, runtime: str, **settings: object) -> Container:
    image = tmp_path / "all4one.sif"
    image.touch()
    run = tmp_path / "runs" / "one"
    given = SlurmSettings.model_validate(
        {"container": str(image), "container_runtime": runtime, "gpus_per_node": 2, **settings}
    )
    return Container(given, run, (run, Path("/data/train"), run / "logs"), has_relay=True)


def job(one: Container) -> list[str]:
    """The script of a job, without its parameters."""
    submitter = executor(one.settings, one.folder / "slurm", requeues=0, requeue=True, container=one)
    return script(submitter).partition("# setup")[2].splitlines()


def test_apptainer_gets_the_gpus_the_mounts_once_and_the_command(tmp_path: Path, commands: Path) -> None:
    one = container(tmp_path, "apptainer", container_mounts=("/scratch", "/a b:/mnt:ro"))
    (line,) = (line for line in job(one) if "apptainer exec" in line)
    words = shlex.split(line)
    assert words[0] == "srun"
    assert words[words.index("apptainer") :] == [
        *("apptainer", "exec", "--pwd", str(one.folder), "--nv"),
        *("--bind", "/data/train:/data/train", "--bind", f"{one.folder}:{one.folder}"),
        *("--bind", "/scratch:/scratch", "--bind", "/a b:/mnt:ro"),
        one.settings.container,
        *("python3", "-P", "-s", "-u", "-m", "submitit.core._submit", str(one.folder / "slurm")),
    ]


def test_pyxis_gets_options_of_srun(tmp_path: Path, commands: Path) -> None:
    one = container(tmp_path, "pyxis")
    (line,) = (line for line in job(one) if "--container-image" in line)
    words = shlex.split(line)
    assert words[words.index(f"--container-image={one.settings.container}") :] == [
        f"--container-image={one.settings.container}",
        f"--container-mounts=/data/train:/data/train,{one.folder}:{one.folder}",
        f"--container-workdir={one.folder}",
        "--container-mount-home",
        *("python3", "-P", "-s", "-u", "-m", "submitit.core._submit", str(one.folder / "slurm")),
    ]


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_the_relay_starts_outside_after_the_lines_of_the_user(
    tmp_path: Path, commands: Path, runtime: str
) -> None:
    one = container(tmp_path, runtime, setup=("module load all",))
    lines = job(one)
    (relay,) = (n for n, line in enumerate(lines) if "command_relay" in line)
    assert "container-image" not in lines[relay]
    assert "apptainer exec" not in lines[relay]
    assert lines[relay].endswith("&")
    assert lines.index("module load all") < relay < lines.index("# command")


def test_folders_that_nodes_make_are_made_before_the_processes_start(tmp_path: Path, commands: Path) -> None:
    run = tmp_path / "run"
    one = container(tmp_path, "apptainer")
    made = Container(one.settings, run, (run, Path("/local/my cache")), made=(Path("/local/my cache"),))
    lines = job(made)
    (line,) = (line for line in lines if "mkdir" in line)
    assert line.endswith("mkdir -p '/local/my cache' || exit 1")
    assert lines.index(line) < lines.index("# command")
    assert not any("relay" in line for line in lines)


def test_a_module_runs_once_inside(tmp_path: Path, commands: Path) -> None:
    inside = shlex.split(container(tmp_path, "apptainer").on_first_node("launch.x y"))
    assert inside[:2] == ["apptainer", "exec"]
    assert inside[-6:] == ["python3", "-P", "-s", "-m", "launch.x", "y"]
    inside = shlex.split(container(tmp_path, "pyxis").on_first_node("launch.x y"))
    assert {"srun", "--nodes=1", "--ntasks=1", "--overlap"} <= set(inside)
    assert inside[-6:] == ["python3", "-P", "-s", "-m", "launch.x", "y"]


def test_what_cannot_start_is_refused(tmp_path: Path, commands: Path) -> None:
    one = container(tmp_path, "apptainer")
    Path(one.settings.container).unlink()
    with pytest.raises(UserError, match="there is no image"):
        job(one)
    odd = container(tmp_path, "apptainer")
    with pytest.raises(UserError, match="a comma or a colon"):
        Container(odd.settings, tmp_path, (tmp_path / "lr=1,seed=2",)).refuse_unusable()
    (commands / "srun").write_text("#!/bin/sh\necho '--overlap'\n")
    with pytest.raises(UserError, match="does not have the plugin Pyxis"):
        job(container(tmp_path, "pyxis"))


def test_a_missing_apptainer_is_told_unless_a_line_may_load_it(tmp_path: Path, commands: Path) -> None:
    assert "no command apptainer" in runtime_warning(container(tmp_path, "apptainer").settings)
    assert not runtime_warning(container(tmp_path, "apptainer", setup=("module load apptainer",)).settings)
    assert not runtime_warning(container(tmp_path, "pyxis").settings)
    (commands / "apptainer").touch(mode=0o755)
    assert not runtime_warning(container(tmp_path, "apptainer").settings)


def test_paths_inside_of_others_are_left_out() -> None:
    paths = [Path("/a/b"), Path("/a"), Path("/ab"), Path("/a/b/c"), Path("/c/d"), Path("/a")]
    assert outermost(paths) == [Path("/a"), Path("/ab"), Path("/c/d")]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"container": "all4one.sif"}, "container_runtime: apptainer or pyxis"),
        ({"container_mounts": ["data"]}, "absolute paths"),
        ({"container_mounts": ["/data:/mnt:rx"]}, "absolute paths"),
        ({"container_mounts": ["/a,/b"]}, "absolute paths"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SlurmSettings.model_validate(settings)


def test_an_image_that_is_a_file_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sandbox").mkdir()
    for given, kept in {
        "./a.sif": f"{tmp_path}/a.sif",
        "sandbox": f"{tmp_path}/sandbox",
        "docker://python:3.11": "docker://python:3.11",
        "nvcr.io#org/image:1": "nvcr.io#org/image:1",
        "": "",
    }.items():
        assert SlurmSettings(container=given, container_runtime="pyxis").container == kept
