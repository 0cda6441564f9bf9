"""What SLURM runs on each node of a job that recovers in place: an agent, whose ranks are forks of it.

The module is also that of the ranks: `import_all` and `main`. It loads no torch: agents meet before they do.
"""

import os
import sys
from functools import partial
from pathlib import Path

import submitit

from data_pipelines.log import LOGGER
from data_pipelines.yaml_reader import read_yaml
from launch.local import worker
from launch.local.process_name import name_process
from launch.local.rank_processes import allow_forks, heed_signals
from launch.local.standard_files import open_log, write_output_to
from launch.local.worker import End, end_with_parent, run_with_error_report
from launch.slurm.agent_links import AgentLost, FirstAgent, LaterAgent
from launch.slurm.first_agent import Lead
from launch.slurm.forwarded_signals import SignalForwarding
from launch.slurm.job_start import Start
from launch.slurm.node_agent import NodeAgent, Place, follow
from launch.slurm.rank_of_job import train_as_rank
from trainer.runs.end_reasons import ExitCode
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
    try:
        # The agents meet before their imports, which take long, so that the loss of one of them is noticed.
        if place.node:
            first = LaterAgent(place.meeting, place.first, place.node)
            if place.node < nodes or _is_checked(run):
                agent.prepare()
            return follow(agent, first)
        others = FirstAgent(place.meeting, place.nodes)
        agent.prepare()
        from launch.slurm.job_outlook import outlook

        with RunLock(run.path, attempt=run.attempts() + 1, wait_s=STALE_AFTER_S + 15) as lock:
            return Lead(agent, others, nodes, outlook(run, lock, place.nodes)).run()
    except AgentLost as error:
        LOGGER.error("the first agent is lost: %s. SLURM has to start the job again", error)
        if error.is_silent:
            from launch.slurm.lost_first_node import ask_for_restart

            ask_for_restart(run, place)
        os._exit(ExitCode.LOST_PEER)  # the ranks end with this process


def _is_checked(run: RunFolder) -> bool:
    """Whether a spare is checked before the ranks start. Reads the one setting, because a configuration loads torch."""
    slurm = (read_yaml(run.config) or {}).get("slurm") or {}
    return slurm.get("check_nodes") is not False
