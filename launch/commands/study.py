"""`all4one study`: train and compare the runs of a study."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.arguments import Overrides, refuse_local_options
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options
from launch.local.imports import collector_paused


@with_slurm_options(without=("chain",))
def study(
    name: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Path of a study, or the name of a shipped study.")
    ] = None,
    overrides: Overrides = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes of each run on this machine. Default: 1.")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs to train at once on this machine, each on its part of the cores and GPUs. Default: 1.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the runs and the report. Default: studies/STUDY."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Train nothing, and only print the results of the evaluated runs.")
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="The study.json of this study from another place. Runs whose scores it lists count as finished. May "
            "be repeated.",
        ),
    ] = None,
    device_hours: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="HOURS",
            help="Budget of all runs. Adds seeds until every claim is decided. Overrides device_hours of the study.",
        ),
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit the runs as a SLURM job array.")] = False,
    array_parallelism: Annotated[
        int, typer.Option(min=1, help="Maximum number of submitted runs at the same time.")
    ] = 256,
    slurm_options: SlurmOptions = NONE,
) -> None:
    """Test claims with a grid of runs: train the unfinished runs, and print which claims hold.

    Without STUDY, list the shipped studies. If the study is stopped, run the same command again to resume it. Overrides
    apply to every run.

    Example: all4one study objectives --nproc 2
    """
    with collector_paused():
        from launch.studies.plan import shipped_studies
        from launch.studies.run_study import study as run_study
    if name is None:
        for shipped, description in shipped_studies().items():
            typer.echo(f"{shipped}: {description}", err=True)
        raise typer.Exit(2)
    if show and submit:
        raise UserError(
            "--show trains nothing, but --submit submits runs for training", fix="give only one of them"
        )
    if not submit:
        slurm_options.refuse("add --submit")
    if submit:
        refuse_local_options(nproc=nproc, parallel=parallel)
    raise typer.Exit(
        run_study(
            name,
            [*(overrides or []), *slurm_options.overrides],
            nproc=nproc or 1,
            out=out,
            submit=submit,
            exclude_suspects=slurm_options.exclude_suspects,
            array_parallelism=array_parallelism,
            show=show,
            parallel=parallel or 1,
            device_hours=device_hours,
            results=results or (),
        )
    )
