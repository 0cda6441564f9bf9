"""What SLURM runs on each node of a job that recovers in place: an agent, whose ranks are forks of it.

The module is also that of the ranks: `import_all` and `main`.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from data_pipelines.log import LOGGER
from launch.local import worker
from launch.local.process_name import name_process
from launch.local.processes import Failure
from launch.local.rank_processes import allow_forks, heed_signals
from launch.local.recovery import RunRecovery
from launch.local.runs import may_shrink
from launch.local.standard_files import open_log, write_output_to
from launch.local.worker import End, end_with_parent, run_with_error_report
from launch.node_check.record import NODE_CHECK
from launch.slurm.agent_links import AgentLost, FirstAgent, LaterAgent
from launch.slurm.first_agent import Lead, Outlook
from launch.slurm.forwarded_signals import SignalForwarding
from launch.slurm.job_start import Start
from launch.slurm.lost_first_node import ask_for_restart
from launch.slurm.node_agent import NodeAgent, Place, follow
from launch.slurm.rank_of_job import train_as_rank
from launch.slurm.record_failure import record_failure
from launch.slurm.start_check import CheckPlan
from trainer.runs.end_reasons import REASONS, EndReason, ExitCode
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import STALE_AFTER_S, RunLock
from trainer.runs.stop_signals import StopRequest

import_all = worker.import_all


def main() -> int:
    """Train the run in the folder `sys.argv[1]` as one rank. Returns the exit code."""
    end_with_parent()
    with StopRequest() as stop:
        heed_signals()
        return run_with_error_report(lambda: train_as_rank(Path(sys.argv[1]), stop)).code


def run_node(run: Path, tasks: int, nodes: int, forwarding: SignalForwarding) -> tuple[End, bool]:
    """Run the agent of this node until the ranks of the job have ended.

    Args:
        run: the run's folder.
        tasks: number of ranks on each node.
        nodes: number of nodes that have ranks. Further nodes are spares. 0: all nodes of the job have ranks.
        forwarding: forwards signals to the ranks.

    Returns how the ranks ended, and whether this is the first node.
    """
    task, start = submitit.JobEnvironment(), Start.this()
    task.paths.result_pickle.unlink(missing_ok=True)  # that of an earlier start would pass for this one's
    logs, node = start.logs(run), int(task.global_rank)
    name_process(f"agent{node}.all4one")
    # What the first agent decides belongs to the output that `all4one logs` shows.
    log = logs / (f"node_{node}.log" if node else "rank_0.log")
    LOGGER.info("output goes to %s", log)
    write_output_to(open_log(log))  # SLURM would append all starts of a job to one file
    meeting = f"{start.job}.{start.restart}"
    place = Place(node, tasks, tuple(task.hostnames), meeting)
    allow_forks()
    agent = NodeAgent(place, __name__, [str(run)], logs, forwarding)
    return run_with_error_report(partial(_run, RunFolder(run), agent, nodes or place.nodes)), node == 0


def _run(run: RunFolder, agent: NodeAgent, nodes: int) -> End:
    place = agent.place
    check = _check_plan(run, place.nodes)
    try:
        # The agents meet before their imports, which take long, so that the loss of one of them is noticed.
        if place.node:
            first = LaterAgent(place.meeting, place.first, place.node)
            if place.node < nodes or check is not None:
                agent.prepare()
            return follow(agent, first)
        others = FirstAgent(place.meeting, place.nodes)
        agent.prepare()
        with RunLock(run.path, attempt=run.attempts() + 1, wait_s=STALE_AFTER_S + 15) as lock:
            outlook = Outlook(
                RunRecovery(run, lock),
                partial(_may_have, run),
                partial(_reason, run),
                partial(_give_up, run),
                check,
            )
            return Lead(agent, others, nodes, outlook).run()
    except AgentLost as error:
        LOGGER.error("the first agent is lost: %s. SLURM has to start the job again", error)
        if error.is_silent:
            ask_for_restart(run, place)
        os._exit(ExitCode.LOST_PEER)  # the ranks end with this process


def _check_plan(run: RunFolder, nodes: int) -> CheckPlan | None:
    """Return how the nodes of a job are checked. None: they are not."""
    config = run.read_config()
    wanted = config.slurm.check_nodes
    if not (nodes > 1 if wanted is None else wanted):
        return None
    # A stream names its shards by a pattern, and a remote set is on no disk of the cluster.
    train, has_index = config.data.train, config.data.reader == "index"
    data = train if has_index and isinstance(train, Path) else None
    return CheckPlan(data, config.slurm.check_tolerance, partial(_note_check, run))


def _note_check(run: RunFolder, facts: Mapping[str, Any]) -> None:
    with suppress(OSError):  # training must go on
        run.note(NODE_CHECK, attempt=run.attempts() + 1, **facts)


def _may_have(run: RunFolder, ranks: int) -> bool:
    """Return whether a run may go on with another number of ranks."""
    return may_shrink(run.read_config(), ranks)


def _give_up(run: RunFolder, failure: Failure) -> str:
    record_failure(run, failure.code, failure.message)
    return EndReason.LOST_RANK


def _reason(run: RunFolder, code: int) -> str:
    """Return the reason that rank 0 has recorded for the end of the newest attempt."""
    last = next((r for r in reversed(read_ledger(run.ledger)) if r["event"] in ("start", "end")), None)
    if last is not None and last["event"] == "end":
        return str(last["reason"])
    return REASONS.get(code, EndReason.ERROR)
