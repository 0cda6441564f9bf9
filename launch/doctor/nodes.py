"""`all4one doctor --nodes N`: check nodes of a SLURM cluster in a job, and name those that are worse than others."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from launch.doctor.node_job import NodeCheckJob, node_rates, round_rates, second_pairs
from launch.messages import print_error
from launch.node_check.comparison import LinkVerdict, Pair, first_round, judge_links, slow_nodes
from launch.node_check.rates import NodeRates, Rate, written
from launch.slurm import slurm_commands
from launch.slurm.containers.container import Container
from launch.slurm.queueing import JobsQueuedTogether, cancel_all
from launch.slurm.submission_environment import submission_environment
from launch.slurm.submitit_executor import NOT_TAKEN, executor, not_taken, script
from trainer.config.slurm_settings import SlurmSettings

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class NodesFound:
    """What a check of nodes has found."""

    nodes: Sequence[str]
    """All nodes of the job."""
    measured: Sequence[NodeRates]
    """The nodes that have answered."""
    links: Mapping[Pair, float | None]
    """Bytes per second of each pair of both rounds. None: it failed."""
    verdict: LinkVerdict
    suspicions: Mapping[str, Sequence[str]]
    """What is wrong with each bad node."""

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs. Keys are stable."""
        return {
            "nodes": list(self.nodes),
            "rates": [one.as_json() for one in self.measured],
            "links": [{"nodes": list(pair), "bytes_per_second": rate} for pair, rate in self.links.items()],
            "bad_nodes": {node: list(why) for node, why in self.suspicions.items()},
            "bad_links": [list(pair) for pair in self.verdict.links],
            "unclear_links": [list(pair) for pair in self.verdict.unclear],
        }


def check_nodes(settings: SlurmSettings, runs: Path, data: Path | None, *, as_json: bool) -> int:
    """Check nodes of the cluster in a job, wait for it and print the result. Return exit code 1 if a node is bad.

    Args:
        settings: the job. Each node runs one process of the check.
        runs: folder where runs are saved, on a file system that all nodes share.
        data: folder of a set on whose disk files are read. None: no disk is measured.
        as_json: whether to print JSON.

    Raises:
        UserError: SLURM does not take the job, or no node has answered.
    """
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs.absolute(), prefix=".node_check-"))
    settings = settings.model_copy(update={"spares": 0})
    nodes = _run(settings, folder, None if data is None else data.absolute(), settings.check_tolerance)
    found = evaluate(folder, nodes, settings.check_tolerance)
    if not found.measured:
        raise UserError("no node has answered", where=folder, fix="read the folders `slurm` and `logs` there")
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        _show(found)
    is_bad = bool(found.suspicions or found.verdict.links or found.verdict.unclear)
    if not is_bad:
        shutil.rmtree(folder, ignore_errors=True)
    return int(is_bad)


def evaluate(folder: Path, nodes: Sequence[str], tolerance: float) -> NodesFound:
    """Return what the files of a check tell.

    Args:
        folder: folder of the results.
        nodes: all nodes of the job, in the order of their tasks.
        tolerance: fraction of the median by which a rate may be lower.
    """
    measured = node_rates(folder)
    first = round_rates(folder, 1, first_round(nodes))
    second = round_rates(folder, 2, second_pairs(folder))
    verdict = judge_links(first, second, tolerance)
    wrong: dict[str, list[str]] = {}
    for one in slow_nodes(measured, tolerance):
        wrong.setdefault(one.node, []).append(one.what)
    for node in verdict.nodes:
        wrong.setdefault(node, []).append("all-reduce: slow or failing with every partner")
    for node in sorted(set(nodes) - {one.node for one in measured}):
        wrong.setdefault(node, []).append("it has not answered")
    return NodesFound(nodes, measured, {**first, **second}, verdict, wrong)


def _run(settings: SlurmSettings, folder: Path, data: Path | None, tolerance: float) -> list[str]:
    """Run the job to its end. Returns its nodes."""
    # As with agents, one process has all cores of its node, and the job outlives nodes that are lost.
    mounts = (folder,) if data is None else (folder, data)
    container = Container(settings, folder, mounts) if settings.container else None
    submitter = executor(
        settings, folder / "slurm", requeues=0, requeue=False, agents=True, container=container
    )
    with JobsQueuedTogether() as queued, submission_environment(script(submitter)):
        try:
            job = submitter.submit(NodeCheckJob(folder, data, tolerance)).job_id
        except NOT_TAKEN as error:
            raise not_taken(error, folder) from None
        queued.add([job])
    try:
        return _wait(job)
    except BaseException:
        if problem := cancel_all([job]):
            print_error(problem)
        raise


def _wait(job: str) -> list[str]:
    """Wait until a job is over, and print its state whenever it changes. Returns its nodes."""
    said, nodes = "", ""
    while True:
        try:
            known = slurm_commands.jobs([job]).get(job)
            nodes = known.nodes if known is not None and known.nodes else nodes
            why = f" ({known.why})" if known is not None and known.state == "PENDING" else ""
            now, over = (f"{known.state.lower()}{why}", known.over) if known is not None else ("gone", True)
        except slurm_commands.Unanswered as error:
            now, over = error.what, False
        if now != said:
            print(f"job {job}: {now}", file=sys.stderr, flush=True)
            said = now
        if over:
            return slurm_commands.ask("scontrol", "show", "hostnames", nodes).split() if nodes else []
        time.sleep(LOOK_SECONDS)


def _show(found: NodesFound) -> None:
    console = plain_console()
    table = Table("node", *Rate, "all-reduce", box=None)
    for one in found.measured:
        rates = [written(rate, one.rates[rate]) if rate in one.rates else "" for rate in Rate]
        links = [rate for pair, rate in found.links.items() if one.node in pair]
        known = [rate for rate in links if rate is not None]
        table.add_row(one.node, *rates, f"{max(known) / 1e9:.3g} GB/s" if known else "fails" if links else "")
    console.print(table)
    for node, reasons in found.suspicions.items():
        for why in reasons:
            console.print(f"{node} is bad. {why}", soft_wrap=True)
    for node, other in found.verdict.links:
        console.print(
            f"The link between {node} and {other} is bad. Both are good with others.", soft_wrap=True
        )
    for node, other in found.verdict.unclear:
        console.print(
            f"{node} and {other} fail or are slow together. Check more nodes to tell which.", soft_wrap=True
        )
    if found.suspicions:
        console.print(f"Leave them out with --exclude {','.join(found.suspicions)}", soft_wrap=True)
    elif not found.verdict.links and not found.verdict.unclear:
        console.print(f"{len(found.measured)} nodes are good.")
