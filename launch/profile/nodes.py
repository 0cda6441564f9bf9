"""`all4one profile --nodes 1,2,4`: profile on each node count of a SLURM cluster, and report the scaling."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import submitit
from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from launch.local.last_words import last_lines
from launch.local.preflight import problems, refuse
from launch.messages import print_error
from launch.profile import profile_run
from launch.profile.job import ProfileJob
from launch.profile.plot import plot, plot_scaling
from launch.slurm import slurm_commands
from launch.slurm.containers.mounts import container_of
from launch.slurm.queueing import JobsQueuedTogether, cancel_all
from launch.slurm.submission_environment import submission_environment
from launch.slurm.submit import refused_by_slurm
from launch.slurm.submitit_executor import NOT_TAKEN, executor, not_taken, script
from launch.slurm.user_settings import slurm_defaults
from trainer.config.schema import Config, override
from trainer.runs.run_folder import RunFolder

LOOK_SECONDS = 2.0
TAIL_LINES = 10


@dataclass(frozen=True)
class Point:
    """Results for one node count."""

    nodes: int
    ranks: int
    images_per_second: float
    efficiency: float
    """Images per second of a process, relative to a process of the smallest node count."""
    bound: str


def parse_nodes(text: str) -> list[int]:
    """Parse node counts such as `1,2,4`. Raises a UserError for any other form."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise UserError(f"must be node counts such as 1,2,4, not {text!r}", where="--nodes")
    return [int(part) for part in parts]


def profile_on(
    recipe: str, overrides: Sequence[str], nodes: Sequence[int], *, steps: int, out: Path | None, trace: bool
) -> int:
    """Profile a recipe on each node count, one job after the other, and wait for all. Return the exit code.

    The recipe's global batch size applies to the largest node count. Smaller node counts keep the same batch size for
    each process.

    Args:
        recipe: the recipe to profile.
        overrides: `key=value` settings, including those of `slurm`.
        nodes: the node counts.
        steps: number of steps to measure of each kind.
        out: folder of the results, with a subfolder for each node count. None: `profiles/RECIPE`.
        trace: whether to also write a torch.profiler trace of one step.

    Raises:
        UserError: problems would stop a job (the message lists all of them), or a job failed.
    """
    folder = profile_run.place(recipe, out).absolute()
    configs = _configs(recipe, overrides, nodes)
    runs = {n: RunFolder(folder / f"nodes_{n}") for n in configs}
    _refuse_what_fails(configs, folder)
    for n, config in configs.items():
        profile_run.prepare(runs[n], config)
    jobs = _queue(configs, runs, folder, steps, trace=trace)
    points: list[Point] = []
    try:
        for n, job in jobs.items():
            _wait(job, n, runs[n])
            points.append(_point(runs[n], configs[n], points))
            write_whole(folder / "scaling.json", json.dumps([asdict(p) for p in points], indent=1).encode())
    except BaseException:
        if problem := cancel_all(_live(list(jobs.values()))):
            print_error(problem)
        raise
    plot_scaling([asdict(p) for p in points], folder / "scaling.png")
    _show(points)
    plain_console().print(
        f"wrote {folder}/scaling.json, scaling.png, and a profile in each nodes_N folder", soft_wrap=True
    )
    return 0


def _configs(recipe: str, overrides: Sequence[str], nodes: Sequence[int]) -> dict[int, Config]:
    whole = profile_run.settings(recipe, overrides, slurm_defaults())
    most, batch = max(nodes), whole.train.global_batch
    if odd := [n for n in nodes if batch * n % most]:
        raise UserError(
            f"a global batch of {batch} on {most} nodes does not scale to a whole batch on {odd[0]}",
            where="--nodes",
            fix=f"set train.global_batch to a multiple of {most}",
        )
    return {
        n: override(whole, [f"slurm.nodes={n}", f"train.global_batch={batch * n // most}"], where=recipe)
        for n in sorted(set(nodes))
    }


def _refuse_what_fails(configs: dict[int, Config], folder: Path) -> None:
    found = [e for c in configs.values() for e in problems(c, c.slurm.ranks, new_runs=0)]
    for config in configs.values():
        submitter = _executor(config, folder)
        if refused := refused_by_slurm(script(submitter)):
            found.append(refused)
    refuse(found)


def _executor(config: Config, folder: Path, after: str | None = None) -> submitit.SlurmExecutor:
    container = container_of([config], folder, has_relay=False)
    return executor(
        config.slurm, folder / "slurm", requeues=0, requeue=False, after=after, container=container
    )


def _queue(
    configs: dict[int, Config], runs: dict[int, RunFolder], folder: Path, steps: int, *, trace: bool
) -> dict[int, str]:
    """Submit a job for each node count, and return their numbers. Each starts after the previous one, so that they do
    not disturb each other."""
    with JobsQueuedTogether() as queued:
        for n, config in configs.items():
            after = queued.numbers[-1] if queued.numbers else None
            submitter = _executor(config, folder, after)
            with submission_environment(script(submitter)):
                try:
                    job = submitter.submit(ProfileJob(runs[n].path, steps, trace=trace))
                except NOT_TAKEN as error:
                    raise not_taken(error, folder) from None
            queued.add([job.job_id])
    return dict(zip(configs, queued.numbers, strict=True))


def _live(jobs: Sequence[str]) -> list[str]:
    """Return the jobs that are not over, or all of them if SLURM does not answer."""
    try:
        return [number for number, job in slurm_commands.jobs(jobs).items() if not job.over]
    except UserError:
        return list(jobs)


def _wait(job: str, nodes: int, run: RunFolder) -> None:
    """Wait until a job has succeeded, and print its state whenever it changes."""
    said = ""
    while True:
        try:
            known = slurm_commands.jobs([job]).get(job)
            now = (
                f"{known.state.lower()}{f' ({known.why})' if known.state == 'PENDING' else ''}"
                if known
                else "gone"
            )
            over = known is None or known.over
        except slurm_commands.Unanswered as error:
            now, over = error.what, False
        if now != said:
            print(f"job {job} on {nodes} node{'s' * (nodes > 1)}: {now}", flush=True)
            said = now
        if over:
            break
        time.sleep(LOOK_SECONDS)
    if not (run.path / "profile.json").exists():
        log = run.logs / "rank_0.log"
        end = last_lines(log, TAIL_LINES)
        raise UserError(
            "\n  ".join([f"job {job} on {nodes} nodes wrote no profile. Its state: {said}", *end]),
            where=run.logs,
            fix="fix the problem and run the command again; SLURM's messages are in the folder `slurm` beside",
        )


def _point(run: RunFolder, config: Config, before: Sequence[Point]) -> Point:
    found = json.loads((run.path / "profile.json").read_text())
    plot(found, run.path / "profile.png")
    speed, ranks = found["images_per_second"], found["world_size"]
    alone = before[0].images_per_second / before[0].ranks if before else speed / ranks
    return Point(config.slurm.nodes, ranks, speed, speed / ranks / alone, found["verdict"]["bound"])


def _show(points: Sequence[Point]) -> None:
    table = Table("nodes", "processes", "images/s", "efficiency", "bound by", box=None)
    for p in points:
        row = (p.nodes, p.ranks, f"{p.images_per_second:.0f}", f"{100 * p.efficiency:.1f} %", p.bound)
        table.add_row(*map(str, row))
    plain_console().print(table)
