"""`all4one submit`, `status`, `logs` and `cancel`."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import From, Overrides, Recipe
from launch.commands.config import list_recipes
from launch.commands.output_format import Json
from launch.commands.renamed_options import earlier_name, value_of
from launch.commands.slurm_options import NONE, SlurmOptions, with_slurm_options
from launch.local.imports import collector_paused

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
RunOrFolder = Annotated[
    Path, typer.Argument(metavar="RUN|FOLDER", help="Folder of a run, or of a sweep or other runs.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the sbatch script without submitting it.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print the output until the job ends.")]
Wait = Annotated[bool, earlier_name("--wait")]
Preflight = Annotated[
    bool,
    typer.Option(
        "--preflight/--no-preflight", help="Check for problems that would stop the run before submitting."
    ),
]


@with_slurm_options()
def submit(
    recipe: Recipe = None,
    overrides: Overrides = None,
    slurm_options: SlurmOptions = NONE,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Values to try, with one run for each. May be repeated."),
    ] = None,
    array_parallelism: Annotated[
        int, typer.Option(min=1, help="Maximum number of sweep runs at the same time.")
    ] = 256,
    taken_from: From = None,
    dry_run: DryRun = False,
    follow: Follow = False,
    wait: Wait = False,
    preflight: Preflight = True,
) -> None:
    """Train a new run on a SLURM cluster. It resumes after time limits, preemptions and node failures.

    With --sweep, each combination of the values is one run, and all runs form one job array. To let a sampler choose
    the values, use `all4one tune`.

    Options that are not given come from the recipe's `slurm:` section, and then from ~/.config/all4one/slurm.yaml.

    Example: all4one submit imagenet_resnet50 --nodes 4 --gpus-per-node 8 --time 12h
    """
    from data_pipelines.errors import UserError

    with collector_paused():
        from launch.local.taken_state import new_run_settings
        from launch.slurm.submit import submit as queue
        from launch.slurm.submit import submit_sweep
    follow = value_of(follow, wait, was="--wait", now="--follow")
    if recipe is None and taken_from is None:
        list_recipes()
        raise typer.Exit(2)
    if sweep and taken_from is not None:
        raise UserError("the runs of a sweep begin at step 0, so --from and --sweep do not go together")
    named, given, taken = new_run_settings(recipe, [*(overrides or []), *slurm_options.overrides], taken_from)
    if slurm_options.exclude_suspects:
        from launch.status.suspect_nodes import excluded_from_new

        given += excluded_from_new(str(named), given)
    if sweep:
        if follow:
            raise UserError(
                "--follow prints the output of one run, not of a sweep",
                fix="watch a sweep with `all4one status FOLDER --watch`",
            )
        submit_sweep(
            str(named), given, sweep, parallel=array_parallelism, preflight=preflight, dry_run=dry_run
        )
        return
    run = queue(named, given, preflight=preflight, dry_run=dry_run, taken=taken)
    if run is not None and follow:
        from launch.slurm.logs import follow as print_output

        raise typer.Exit(print_output(run, 0))


def status(
    path: Annotated[
        Path, typer.Argument(metavar="[RUN|FOLDER]", help="Folder of a run, or folder of several runs.")
    ] = Path("runs"),
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between refreshes of --watch.")] = 5.0,
) -> None:
    """Print the state of runs: nodes, steps, speed, time left, newest checkpoint, attempts and lost steps.

    For a single run, also print how each attempt ended.

    Example: all4one status runs/cifar10 --watch
    """
    from data_pipelines.errors import UserError
    from launch.status.tables import print_status
    from launch.status.tables import watch as show_again

    if watch and as_json:
        raise UserError("--watch cannot be combined with --json", fix="give only one of them")
    if not watch:
        print_status(path, as_json=as_json)
        return
    show_again(path, interval)


def logs(
    path: RunOrFolder,
    follow: Follow = False,
    rank: Annotated[int, typer.Option(min=0, help="Rank whose output is printed.")] = 0,
) -> None:
    """Print the output of one process of a run, or of each run in a folder.

    Each line of several runs begins with the name of its run.

    Example: all4one logs runs/cifar10 --follow --rank 3
    """
    from launch.slurm.logs import show

    raise typer.Exit(show(path, rank, follow_it=follow))


def cancel(
    path: RunOrFolder,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait until the checkpoint is saved and the job ends.")
    ] = 300.0,
) -> None:
    """Cancel the jobs of a run, or of all runs in a folder. Each run saves a checkpoint first.

    The command waits for the end of the jobs. After --timeout it ends them without a checkpoint. The runs stay
    cancelled until `all4one resume`.

    Example: all4one cancel runs/cifar10 --timeout 600
    """
    from launch.slurm.cancel import cancel as cancel_jobs

    cancel_jobs(path, timeout)
