"""`all4one profile`: measure a recipe's steps, or say what they need on GPUs without one."""

from pathlib import Path
from typing import Annotated

import typer

from data_pipelines.errors import UserError
from launch.commands.arguments import Nproc, Overrides, Recipe
from launch.commands.config import list_recipes
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options
from launch.local.imports import collector_paused

_DEVICE, _WORLD, _STEPS = "h100", 8, 10


@with_slurm_options(without=("nodes", "chain", "spares"))
def profile(
    recipe: Recipe = None,
    overrides: Overrides = None,
    nproc: Nproc = 1,
    steps: Annotated[
        int | None,
        typer.Option(min=2, help=f"Number of steps to measure of each kind, at least. Default: {_STEPS}."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the results. Default: profiles/CONFIG."),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also write a torch.profiler trace of one step.")
    ] = False,
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="Node counts of a SLURM cluster. One job runs on each, and the report shows how the recipe scales.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure nothing. Run a step without a GPU, and print memory, messages, kernels and host waits "
            "of a rank, with an estimate of its time.",
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="CARD",
            help=f"GPU of a dry run: a100, h100, h200, b200, l40s, l4 or rtx4090. Default: {_DEVICE}.",
        ),
    ] = None,
    world: Annotated[
        int | None, typer.Option(min=1, help=f"Ranks of a dry run, each with a GPU. Default: {_WORLD}.")
    ] = None,
    slurm_options: SlurmOptions = NONE,
) -> None:
    """Measure the steps of a recipe: where the time goes, what the bottleneck is, and which settings to change.

    The profile runs on this machine, or with --nodes in SLURM jobs. The largest node count uses CONFIG's global batch
    size. Smaller node counts keep the same batch size for each process. With --dry-run nothing is measured.

    Example: all4one profile cifar10 --nproc 2 --steps 20
    """
    if recipe is None:
        list_recipes()
        raise typer.Exit(2)
    if nodes is None:
        slurm_options.refuse("add --nodes 1,2")
    if dry_run:
        _refuse(
            "--dry-run measures nothing",
            {"--nodes": nodes, "--trace": trace, "--nproc": nproc != 1, "--steps": steps},
        )
        with collector_paused():
            from launch.profile.dry_run import profile_dry
        raise typer.Exit(
            profile_dry(
                recipe, overrides or [], device=device or _DEVICE, world_size=world or _WORLD, out=out
            )
        )
    _refuse("a profile measures this machine", {"--device": device, "--world": world}, fix="add --dry-run")
    if nodes is not None:
        if nproc != 1:
            raise UserError(
                "--nproc is for this machine, but --nodes is for a cluster",
                fix="set the processes of a node with --tasks-per-node",
            )
        from launch.profile.nodes import parse_nodes, profile_on

        settings = [*(overrides or []), *slurm_options.overrides]
        if slurm_options.exclude_suspects:
            from launch.status.suspect_nodes import excluded_from_new

            settings += excluded_from_new(recipe, settings)
        raise typer.Exit(
            profile_on(recipe, settings, parse_nodes(nodes), steps=steps or _STEPS, out=out, trace=trace)
        )
    with collector_paused():
        from launch.profile.profile_run import profile as measure
    raise typer.Exit(
        measure(recipe, overrides or [], nproc=nproc, steps=steps or _STEPS, out=out, trace=trace)
    )


def _refuse(why: str, given: dict[str, object], *, fix: str = "leave it out") -> None:
    """Raise a UserError if an option was given that has no meaning beside the others."""
    for option, value in given.items():
        if value:
            raise UserError(f"{why}, so {option} has no meaning", fix=fix)
