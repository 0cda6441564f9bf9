"""`all4one doctor`: check this machine, or nodes of a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.output_format import Json
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options


@with_slurm_options(without=("chain", "tasks_per_node", "spares"))
def doctor(
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder where runs are saved.")] = Path("runs"),
    data: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="Folder of a set. The read rate of its disk is measured."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Fraction of the median by which a rate of a node may be lower. Default: slurm.check_tolerance.",
        ),
    ] = None,
    as_json: Json = False,
    slurm_options: SlurmOptions = NONE,
) -> None:
    """Check this machine: packages, GPUs, communication between processes, SLURM, disks, limits and rates.

    The exit code is 1 if a problem would stop runs. With --nodes N, a SLURM job measures the rates of N nodes and of
    the links between them. It names those that fail or are slower than the median by `slurm.check_tolerance`.

    Example: all4one doctor --nodes 4 --gpus-per-node 8 --data data/imagenet/train
    """
    if "nodes" not in slurm_options.given:
        slurm_options.refuse("add --nodes N")
        from launch.doctor.examination import CHECKS, check_of_set, examine

        checks = CHECKS if data is None else (*CHECKS, check_of_set(data.absolute()))
        raise typer.Exit(examine(runs, as_json=as_json, checks=checks))
    from launch.doctor.nodes import check_nodes
    from launch.slurm.user_settings import slurm_defaults
    from trainer.config.schema import load_config

    given = slurm_options.overrides
    if tolerance is not None:
        given = [f"slurm.check_tolerance={tolerance}", *given]
    if "time" not in slurm_options.given:
        given = ["slurm.time=10m", *given]  # a check takes a minute, and short jobs start sooner
    if slurm_options.exclude_suspects:
        from launch.status.suspect_nodes import excluded_from_new

        given += excluded_from_new("digits_demo", [*given, f"run.folder={runs}"])
    # Of the recipe, only the defaults of the section `slurm` are used.
    settings = load_config("digits_demo", given, slurm_defaults()).slurm
    raise typer.Exit(check_nodes(settings, runs, data, as_json=as_json))
