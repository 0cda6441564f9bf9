"""`all4one plan`: the goodput that a run on a cluster can expect."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import Overrides, Recipe
from launch.commands.config import list_recipes
from launch.commands.output_format import Json

_DURATION = "90s|5min|2h"


def plan(
    recipe: Recipe = None,
    overrides: Overrides = None,
    nodes: Annotated[int | None, typer.Option(help="Number of nodes. Default: slurm.nodes.")] = None,
    mtbf: Annotated[
        str | None, typer.Option(metavar="500h", help="Mean time between the failures of one node.")
    ] = None,
    spares: Annotated[
        int | None, typer.Option(help="Number of spare nodes of the job. Default: slurm.spares.")
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder of an earlier run. Its measured times replace estimates."),
    ] = None,
    rank_failures: Annotated[
        float | None,
        typer.Option(metavar="FRACTION", help="Fraction of the failures that leave the node healthy."),
    ] = None,
    step_time: Annotated[str | None, typer.Option(metavar=_DURATION, help="Time of a step.")] = None,
    evaluation_time: Annotated[
        str | None,
        typer.Option(metavar=_DURATION, help="Time of evaluations during training, divided by all steps."),
    ] = None,
    save_time: Annotated[
        str | None, typer.Option(metavar=_DURATION, help="Time for which steps wait for a save.")
    ] = None,
    write_time: Annotated[
        str | None,
        typer.Option(metavar=_DURATION, help="Time until a checkpoint is on the disk after that."),
    ] = None,
    restart_time: Annotated[
        str | None,
        typer.Option(metavar=_DURATION, help="From the loss of a rank to the next step, inside of the job."),
    ] = None,
    start_time: Annotated[
        str | None, typer.Option(metavar=_DURATION, help="From the start of a job to its first step.")
    ] = None,
    queue_time: Annotated[
        str | None, typer.Option(metavar=_DURATION, help="Wait of a requeued job for its nodes.")
    ] = None,
    detection_time: Annotated[
        str | None,
        typer.Option(metavar=_DURATION, help="From the failure of a node until it is noticed."),
    ] = None,
    release_time: Annotated[
        str | None,
        typer.Option(
            metavar=_DURATION, help="From the loss of a rank until the job is over, if it is requeued."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of steps of the run. Default: as the recipe says.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated failures. Default: 0.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a run on a cluster whose nodes fail: goodput, best checkpoint interval, and spare nodes that pay.

    The simulation follows the rules of restarts: `slurm.recovery`, requeues, time limits, spare nodes and checkpoints.
    Its numbers come from options, from an earlier run, from the recipe, or from estimates that are printed as such.

    Example: all4one plan imagenet_resnet50 --nodes 64 --mtbf 500h slurm.gpus_per_node=8 slurm.time=24h
    """
    if recipe is None:
        list_recipes()
        raise typer.Exit(2)
    from launch.plan.durations import parse_duration
    from launch.plan.plan_run import make_plan
    from launch.plan.tables import print_plan

    durations = {
        "mtbf_seconds": ("--mtbf", mtbf),
        "step_seconds": ("--step-time", step_time),
        "evaluation_seconds": ("--evaluation-time", evaluation_time),
        "save_seconds": ("--save-time", save_time),
        "write_seconds": ("--write-time", write_time),
        "in_place_seconds": ("--restart-time", restart_time),
        "start_seconds": ("--start-time", start_time),
        "queue_seconds": ("--queue-time", queue_time),
        "detection_seconds": ("--detection-time", detection_time),
        "release_seconds": ("--release-time", release_time),
    }
    counts = {"nodes": nodes, "spares": spares, "rank_failures": rank_failures, "steps": steps}
    given: dict[str, float] = {name: value for name, value in counts.items() if value is not None}
    for name, (option, text) in durations.items():
        if text is not None:
            given[name] = parse_duration(text, option)
    made = make_plan(recipe, overrides or [], given, run=from_run, seed=seed or 0)
    print_plan(made, as_json=as_json)
