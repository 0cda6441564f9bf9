"""`all4one submit`, `status`, `logs` and `cancel`: parses, calls, prints."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Path of a recipe, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Nodes = Annotated[int | None, typer.Option(min=1, help="Machines.")]
GpusPerNode = Annotated[int | None, typer.Option(min=0, help="GPUs of each machine; 0: CPUs only.")]
TasksPerNode = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on each machine; if not given, one for each GPU, or as before."),
]
Time = Annotated[str | None, typer.Option(metavar="90m|12h|2d", help="Time limit of an attempt.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the sbatch script, and queue nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show the output until the job is over.")]
Preflight = Annotated[
    bool, typer.Option("--preflight/--no-preflight", help="Look for what would stop the run first.")
]
ExcludeSuspects = Annotated[
    bool,
    typer.Option(
        "--exclude-suspects", help="Leave out machines that failed again and again, as `status` names them."
    ),
]


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    tasks_per_node: TasksPerNode = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Cores of each process.")] = None,
    time: Time = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that is charged.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that the machines must have.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Machines that are left out.")] = None,
    exclude_suspects: ExcludeSuspects = False,
    mem: Annotated[str | None, typer.Option(metavar="64G", help="Memory of each machine.")] = None,
    setup: Annotated[
        list[str] | None, typer.Option(help="Shell line that runs before the processes; may be given again.")
    ] = None,
    srun_arg: Annotated[
        list[str] | None, typer.Option(help="Further argument of srun (--srun-arg=--cpu-bind=none).")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Further option of sbatch (--slurm mail-type=END)."),
    ] = None,
    chain: Annotated[
        int | None, typer.Option(min=1, help="Jobs queued one after the other, where requeues are forbidden.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Values to try, a run for each; may be given again."),
    ] = None,
    array_parallelism: Annotated[
        int, typer.Option(min=1, help="Runs of a sweep that run at a time, at most.")
    ] = 256,
    dry_run: DryRun = False,
    wait: Wait = False,
    preflight: Preflight = True,
) -> None:
    """Train a new run on a SLURM cluster: queue it, and let it go on after time limits, preemptions and lost machines.

    With --sweep, one run for each combination of the values, all as one job array.

    Options not given come from the recipe's `slurm:` section, and under it from ~/.config/all4one/slurm.yaml.
    """
    from data_pipelines.errors import UserError
    from launch.slurm.submit import submit as queue
    from launch.slurm.submit import submit_sweep

    settings = slurm_overrides(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        tasks_per_node=tasks_per_node,
        cpus_per_task=cpus_per_task,
        time=time,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        exclude=exclude,
        mem=mem,
        setup=setup,
        srun_args=srun_arg,
        chain=chain,
    )
    given = [*(overrides or []), *settings, *map(_extra, slurm or [])]
    if exclude_suspects:
        from launch.status.suspect_nodes import excluded_from_new

        given += excluded_from_new(recipe, given)
    if sweep:
        if wait:
            raise UserError("--wait follows one run", fix="follow a sweep by `all4one status FOLDER --watch`")
        submit_sweep(recipe, given, sweep, parallel=array_parallelism, preflight=preflight, dry_run=dry_run)
        return
    run = queue(recipe, given, preflight=preflight, dry_run=dry_run)
    if run is not None and wait:
        from launch.slurm.logs import follow

        raise typer.Exit(follow(run, 0))


def status(
    path: Annotated[
        Path, typer.Argument(metavar="[RUN|FOLDER]", help="A run, or the folder of runs.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between looks of --watch.")] = 5.0,
) -> None:
    """Say where runs stand: state, machines, steps, speed, time left, newest checkpoint, attempts, lost steps.

    Of a single run, also how each of its attempts ended.
    """
    from data_pipelines.errors import UserError
    from launch.status.tables import print_status
    from launch.status.tables import watch as show_again

    if watch and as_json:
        raise UserError("--watch is for people, --json for programs", fix="give either")
    if not watch:
        print_status(path, as_json=as_json)
        return
    show_again(path, interval)


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Process whose output is shown.")] = 0,
) -> None:
    """Print what a process of a submitted run has printed."""
    from launch.slurm.logs import show

    raise typer.Exit(show(run, rank, follow_it=follow))


def cancel(run: Run) -> None:
    """End a run's job. It saves first, and stays cancelled; `all4one resume` goes on with it."""
    from launch.slurm import controller
    from launch.slurm.submitted_jobs import Submissions
    from trainer.runs.run_folder import open_run

    chain = Submissions(open_run(run)).required()
    known = controller.jobs(chain)
    live = [number for number in chain if number in known and not known[number].over]
    if not live:
        job = known.get(chain[-1])
        typer.echo(
            f"job {chain[-1]} is {job.state.lower() if job else 'not known to SLURM any more'}: nothing to cancel"
        )
        return
    for number in reversed(live):  # the first one last: its end lets the next one begin
        controller.cancel(number)
    typer.echo(f"job {', '.join(live)} is told to save and end; go on with it: all4one resume {run}")


_WORDS = ("true", "false", "yes", "no", "on", "off")
"""With these an option of sbatch that takes no value is given, or is not."""


def _extra(assignment: str) -> str:
    """The override of a `--slurm KEY=VALUE`, whose value is sbatch's to read: YAML would take 16:00 for 960."""
    key, separator, value = assignment.partition("=")
    is_yaml = not value or value[0] in "'\"" or value.lower() in _WORDS
    return f"slurm.extra.{key}{separator}{value if is_yaml else json.dumps(value)}"


def slurm_overrides(**options: Any) -> list[str]:
    """`slurm.KEY=VALUE` for each option that was given; JSON is YAML, so texts stay texts."""
    return [f"slurm.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
