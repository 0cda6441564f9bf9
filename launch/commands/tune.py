"""`all4one tune` and `trials`: search for good settings."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import Overrides, Recipe, refuse_local_options
from launch.commands.config import list_recipes
from launch.commands.output_format import Json
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options
from launch.local.imports import collector_paused


class Sampler(StrEnum):
    """How a search chooses the settings of its trials."""

    TPE = "tpe"
    RANDOM = "random"


@with_slurm_options(without=("chain",))
def tune(
    recipe: Recipe = None,
    overrides: Overrides = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Setting to vary: KEY=LOW..HIGH, KEY=LOW..HIGH:log, or KEY=V1,V2. May be repeated.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=2, max=1000, help="Number of trials.")] = 30,
    metric: Annotated[
        str, typer.Option(help="Metric of the evaluations during training. Its last value is maximized.")
    ] = "knn_online",
    sampler: Annotated[
        Sampler, typer.Option(help="tpe learns from the trials before. random does not.")
    ] = Sampler.TPE,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Stop trials early that fall behind. Of those that reach evaluation 1, 3, 9, …, one in three goes on.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes of each trial on this machine. Default: 1.")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trials to train at once on this machine, each on its part of the cores and GPUs. Default: 1.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the search. Default: searches/CONFIG."),
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Submit the trials as a SLURM job array.")] = False,
    array_parallelism: Annotated[
        int, typer.Option(min=1, help="Maximum number of submitted trials at the same time.")
    ] = 4,
    slurm_options: SlurmOptions = NONE,
) -> None:
    """Search for good settings with Optuna. Each trial is a run, and the sampler learns from those before it.

    Trials are trained here, or as a job array that draws the settings of each trial when its job starts.
    If the search is stopped, run the same command again to continue it. A larger --trials adds trials.

    Example: all4one tune cifar10 --search optim.lr=0.1..3.0:log --search method.temperature=0.1,0.2 --trials 20
    """
    if recipe is None:
        list_recipes()
        raise typer.Exit(2)
    if not submit:
        slurm_options.refuse("add --submit")
    if submit:
        refuse_local_options(nproc=nproc, parallel=parallel)
    with collector_paused():
        from launch.tuning.run_search import recipe_place
        from launch.tuning.run_search import tune as run_search
        from launch.tuning.search import Asked
    asked = Asked(
        recipe=recipe_place(recipe),
        overrides=tuple(overrides or ()),
        space=tuple(search or ()),
        metric=metric,
        sampler=sampler.value,
        prune=prune,
        seed=seed,
        trials=trials,
    )
    raise typer.Exit(
        run_search(
            asked,
            out,
            nproc=nproc or 1,
            submit=submit,
            slurm_overrides=slurm_options.overrides,
            array_parallelism=array_parallelism,
            parallel=parallel or 1,
            exclude_suspects=slurm_options.exclude_suspects,
        )
    )


def trials(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a search, as `all4one tune` printed it.")
    ],
    as_json: Json = False,
) -> None:
    """Print the trials of a search: the best ones first, each with its settings.

    Example: all4one trials searches/cifar10
    """
    from launch.tuning.search import Search
    from launch.tuning.trial_table import show

    show(Search.open(folder), as_json=as_json)
