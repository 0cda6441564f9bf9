"""The command `all4one study`."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.slurm import GpusPerNode, Nodes, Overrides, Time, slurm_overrides


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Path of a study, or the name of a shipped one.")
    ] = None,
    overrides: Overrides = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes of each run on this machine; 1 if not given.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the runs and the report; studies/STUDY if not given."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only say what the judged runs show.")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Queue the runs as a job array of SLURM.")] = False,
    array_parallelism: Annotated[int, typer.Option(min=1, help="Runs that run at a time, at most.")] = 256,
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    time: Time = None,
) -> None:
    """Test claims by a grid of runs: train what is not finished, and say which are held. Without STUDY, list them.

    Runs are trained one after the other, and the same command goes on where it was stopped. Overrides are settings of
    every run.
    """
    from launch.studies.plan import shipped_studies
    from launch.studies.run_study import study as run_study

    if name is None:
        for shipped, description in shipped_studies().items():
            typer.echo(f"{shipped}: {description}", err=True)
        raise typer.Exit(2)
    if show and submit:
        raise UserError("--show trains nothing, and --submit queues what is to be trained", fix="give either")
    settings = slurm_overrides(nodes=nodes, gpus_per_node=gpus_per_node, time=time)
    if settings and not submit:
        raise UserError("--nodes, --gpus-per-node and --time are for jobs of SLURM", fix="add --submit")
    if nproc and submit:
        raise UserError("--nproc is for this machine", fix="leave it out, or leave --submit out")
    raise typer.Exit(
        run_study(
            name,
            [*(overrides or []), *settings],
            nproc=nproc or 1,
            out=out,
            submit=submit,
            parallel=array_parallelism,
            show=show,
        )
    )
