"""All commands that submit take the same options of SLURM jobs."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_pipelines.errors import UserError
from launch import cli
from launch.commands.slurm_options import _NAMES, _SETTINGS, SlurmOptions
from launch.studies.plan import runs_of
from launch.tuning.trial_settings import config_of_trial
from trainer.config.schema import load_config
from trainer.config.slurm_settings import SlurmSettings
from trainer.runs.run_folder import create_run

CONFIG_OF_TRIAL = "launch.tuning.run_search.config_of_trial"
GIVEN = [
    *("--gpus-per-node", "8", "--tasks-per-node", "4", "--cpus-per-task", "2", "--time", "90m"),
    *(
        "--partition",
        "gpu",
        "--account",
        "007",
        "--qos",
        "low",
        "--constraint",
        "a100",
        "--exclude",
        "node[1-2]",
    ),
    *("--mem", "64G", "--setup", "module load cuda", "--setup", "true", "--srun-arg=--cpu-bind=none"),
    *("--slurm", "mail-type=END", "--slurm", "begin=16:00", "--slurm", "hold=true"),
]
WANTED = SlurmSettings(
    gpus_per_node=8,
    tasks_per_node=4,
    cpus_per_task=2,
    time="90m",
    partition="gpu",
    account="007",
    qos="low",
    constraint="a100",
    exclude="node[1-2]",
    mem="64G",
    setup=("module load cuda", "true"),
    srun_args=("--cpu-bind=none",),
    extra={"mail-type": "END", "begin": "16:00", "hold": True},
)


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (["submit", "digits_demo", "--nodes", "2"], "launch.slurm.submit.submit"),
        (["resume", "RUN", "--nodes", "2"], "launch.slurm.submit.resume"),
        (["study", "objectives", "--submit", "--nodes", "2"], "launch.studies.run_study.study"),
        (["profile", "digits_demo", "--nodes", "2"], "launch.profile.nodes.profile_on"),
    ],
)
def test_every_command_that_submits_takes_every_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, command: list[str], function: str
) -> None:
    (tmp_path / "config.yaml").touch()
    found: list[list[str]] = []

    def instead(_: object, overrides: list[str], *__: object, **___: object) -> None:
        found.append(overrides)

    monkeypatch.setattr(function, instead)
    arguments = [str(tmp_path) if word == "RUN" else word for word in command]
    done = CliRunner().invoke(cli.app, [*arguments, *GIVEN, "train.epochs=3"])
    assert done.exit_code == 0, done.output
    config = load_config("digits_demo", found[0])
    assert config.train.epochs == 3
    nodes = 1 if command[0] == "profile" else 2  # of a profile, each job has its own number
    assert config.slurm == WANTED.model_copy(update={"nodes": nodes})


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (["submit", "digits_demo"], "launch.slurm.submit.submit"),
        (["submit", "digits_demo", "--sweep", "run.seed=1,2"], "launch.slurm.submit.submit_sweep"),
        (["resume", "RUN"], "launch.slurm.submit.resume"),
        (["study", "objectives", "--submit", "--out", "FOLDER"], "launch.studies.study_runs.runs_of"),
        (["profile", "digits_demo", "--nodes", "2"], "launch.profile.nodes.profile_on"),
        (["tune", "digits_demo", "--search", "optim.lr=1,2", "--submit", "--out", "FOLDER"], CONFIG_OF_TRIAL),
    ],
)
def test_every_command_that_submits_can_exclude_suspects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str], function: str
) -> None:
    run = create_run(load_config("digits_demo", [f"run.folder={tmp_path}", "run.name=a"]), "digits_demo")
    for attempt in (1, 2):
        run.note("start", attempt=attempt, world_size=1, nodes="node[1-2]")
        run.note("end", attempt=attempt, reason="killed", message="node2, task 1: Killed")
    found: list[list[str]] = []
    as_they_are = {"launch.studies.study_runs.runs_of": runs_of, CONFIG_OF_TRIAL: config_of_trial}

    def instead(*arguments: Any, **_: object) -> Any:
        found.append(next(one for one in arguments if isinstance(one, list)))
        if function not in as_they_are:
            return None
        if len(found) == 2:
            raise UserError("enough")
        return as_they_are[function](*arguments)

    monkeypatch.setattr(function, instead)
    places = {"RUN": str(run.path), "FOLDER": str(tmp_path)}
    options = ["--exclude-suspects", "--exclude", "node7"]
    if command[0] not in ("study", "tune"):
        options.append(f"run.folder={tmp_path}")
    if command[0] == "resume":
        options.pop()
    CliRunner().invoke(cli.app, [*(places.get(word, word) for word in command), *options])
    assert found[-1][-1] == 'slurm.exclude="node7,node2"'


def test_every_resource_of_a_job_has_an_option() -> None:
    assert set(_SETTINGS) == set(SlurmSettings.model_fields) - {
        "signal_lead_seconds",
        "max_requeues",
        "recovery",
        "shrink",
        "check_nodes",
        "check_tolerance",
        "container_runtime",  # of the cluster rather than of a job
        "container_mounts",
    }
    assert set(_NAMES) <= set(_SETTINGS)


def test_options_of_jobs_are_refused_by_name_where_no_job_is_submitted() -> None:
    SlurmOptions({}).refuse("add --submit")
    for command in (["study", "objectives"], ["profile", "digits_demo"]):
        done = CliRunner().invoke(cli.app, [*command, "--srun-arg=x", "--cpus-per-task", "2"])
        assert done.exit_code != 0
        assert "--cpus-per-task, --srun-arg: only for SLURM jobs" in str(done.exception)


def test_a_chain_is_offered_where_there_is_one() -> None:
    for command, offered in (("submit", True), ("resume", True), ("study", False), ("profile", False)):
        assert ("--chain" in CliRunner().invoke(cli.app, [command, "--help"]).output) == offered
