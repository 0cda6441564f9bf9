"""The `all4one` command. Torch and DeepSpeed are loaded only by the commands that need them."""

import os
import re
import sys
from importlib import metadata
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.arguments import From, Nproc, Overrides, Recipe
from launch.commands.config import app as config_app
from launch.commands.config import list_recipes
from launch.commands.data import app as data_app
from launch.commands.doctor import doctor
from launch.commands.evaluate import evaluate
from launch.commands.models import embed, export, patches, segment
from launch.commands.plan import plan
from launch.commands.profile import profile
from launch.commands.renamed_options import value_of
from launch.commands.report import report
from launch.commands.serve import serve
from launch.commands.slurm import (
    DryRun,
    Follow,
    Preflight,
    Run,
    Wait,
    cancel,
    logs,
    status,
    submit,
)
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options
from launch.commands.study import study
from launch.commands.tune import trials, tune
from launch.foreign_launcher import refuse_foreign_launcher
from launch.local.imports import collector_paused
from launch.local.rank_processes import allow_forks
from launch.messages import print_or_raise

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
for command in (
    *(submit, status, logs, cancel, doctor, plan, profile),
    *(export, embed, patches, segment, study, tune, trials, report, serve),
):
    app.command()(command)
app.command(name="eval")(evaluate)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"all4one {metadata.version('all4one')}")
        raise typer.Exit


@app.callback()
def all4one(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Self-supervised pretraining of image backbones with All4One.

    Example: all4one train digits_demo
    """


@app.command()
def train(
    recipe: Recipe = None, overrides: Overrides = None, nproc: Nproc = 1, taken_from: From = None
) -> None:
    """Train a new run. Without CONFIG and --from, list the shipped recipes.

    Example: all4one train cifar10 optim.lr=0.5 --nproc 2
    """
    if recipe is None and taken_from is None:
        list_recipes()
        raise typer.Exit(2)
    with collector_paused():
        from launch.local.runs import start_run
        from launch.local.taken_state import new_run_settings

    raise typer.Exit(start_run(*new_run_settings(recipe, overrides, taken_from), nproc=nproc))


@app.command()
@with_slurm_options()
def resume(
    run: Run,
    overrides: Overrides = None,
    nproc: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine. Default: as many as before."),
    ] = None,
    slurm_options: SlurmOptions = NONE,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Train again from step 0, because the checkpoints are lost."),
    ] = False,
    dry_run: DryRun = False,
    follow: Follow = False,
    wait: Wait = False,
    preflight: Preflight = True,
) -> None:
    """Resume a run from its newest valid checkpoint, with the same or a different number of processes.

    A submitted run is submitted again with its previous settings, except for the options given here. With --nproc it is
    resumed on this machine instead.

    Example: all4one resume runs/cifar10 --nproc 4
    """
    from launch.slurm.submitted_jobs import Submissions
    from trainer.runs.run_folder import open_run

    follow = value_of(follow, wait, was="--wait", now="--follow")
    if nproc is not None and (slurm_options or dry_run or follow):
        raise UserError(
            "--nproc resumes on this machine, but the other options are for SLURM",
            fix="give --nproc or the SLURM options, not both",
        )
    if nproc is not None or not (slurm_options or Submissions(open_run(run)).newest_chain()):
        with collector_paused():
            from launch.local.runs import resume_run
        raise typer.Exit(resume_run(run, overrides or [], nproc, from_scratch=from_scratch))
    from launch.slurm.submit import resume as queue

    given = [*(overrides or []), *slurm_options.overrides]
    if slurm_options.exclude_suspects:
        from launch.status.suspect_nodes import excluded_from_resumed

        given += excluded_from_resumed(run, given)
    queued = queue(run, given, preflight=preflight, dry_run=dry_run, from_scratch=from_scratch)
    if queued is not None and follow:
        from launch.slurm.logs import follow as print_output

        raise typer.Exit(print_output(queued, 0))


@app.command(name="verify-resume")
def verify_resume(
    recipe: Recipe = None,
    overrides: Overrides = None,
    kills: Annotated[int, typer.Option(min=1, help="Number of SIGKILLs at random times.")] = 5,
    nproc: Nproc = 2,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the kill times. Default: a random seed, which is printed.")
    ] = None,
) -> None:
    """Train the recipe twice, once without interruption and once killed and resumed, and compare the results.

    Every tensor and every metric of the two runs must be equal bit for bit.

    Example: all4one verify-resume digits_demo --kills 3 --nproc 2
    """
    if recipe is None:
        list_recipes()
        raise typer.Exit(2)
    with collector_paused():
        from launch.local.verify_resume import verify
    raise typer.Exit(verify(recipe, overrides or [], kills=kills, nproc=nproc, seed=seed))


def _expand(found: re.Match[str]) -> str:
    # An unknown user's `~name` stays as it is, where pathlib would raise.
    return str(found[1]) + os.path.expanduser(found[2])  # noqa: PTH111


def main() -> None:
    """Run the command. A UserError prints one message and exits with code 2; Ctrl-C exits with code 130."""
    allow_forks()
    try:
        refuse_foreign_launcher()
        # A shell expands `~` only at the beginning of a word.
        sys.argv[1:] = [re.sub(r"^(--[\w-]+=)(~[^/]*)", _expand, argument) for argument in sys.argv[1:]]
        app()
    except (UserError, OSError) as error:
        print_or_raise(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
