"""What the other agents do if the first one falls silent: SLURM has to start the job again, and may not notice it.

A job with agents outlives the loss of a node (`--no-kill`), also that of its first node, where its script runs. SLURM
22.05 then leaves the job running without a script. The remaining agents therefore ask for the restart.

An agent cannot tell whether the first node is lost or its own node is cut off. It asks for nothing until SLURM says
that the first node is down, or until the lock of the run has had no sign of life for so long that any attempt might
take it over. A node that is cut off hears neither, and the lock lives on in the meantime.
"""

import signal
import time
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.log import LOGGER
from launch.slurm import slurm_commands
from launch.slurm.agent_links import LOST_NODE
from launch.slurm.job_start import Start
from launch.slurm.node_agent import Place
from launch.slurm.record_failure import record_failure
from trainer.runs.lock_holder import Holder
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import living_holder

ASK_SECONDS = 2.0
"""Time between two looks, seconds."""
PATIENCE_S = 600.0
"""How long an agent waits for certainty, seconds."""
STAGGER_S = 10.0
"""How much later than the one before it each agent asks, seconds. The nodes of several agents may be lost together."""


def ask_for_restart(run: RunFolder, place: Place) -> None:
    """Return once SLURM has been asked to start the job again, or once it is certain that it need not be.

    Args:
        run: the run.
        place: this node, which is not the first one of the job.
    """
    start, began, lock = Start.this(), time.monotonic(), _newest_lock(run)
    ready = began + (place.node - 1) * STAGGER_S
    while (now := time.monotonic()) < began + PATIENCE_S:
        time.sleep(ASK_SECONDS)
        seen = _newest_lock(run)
        if seen is not None and (seen != lock or _is_released(seen[0])):
            return  # the first agent lives, or has lived to the end of the run, and goes on without this node
        if now < ready:
            continue
        try:
            if not _is_this_start(start):
                return
            lost = _is_down(place.first) or living_holder(run.path) is None
        except UserError as error:
            LOGGER.warning("%s", error.what)
            continue
        if lost:
            record_failure(run, 128 + signal.SIGKILL, f"rank 0 on {place.first} {LOST_NODE}")
            _end_unless_requeued(run, start)
            return


def _end_unless_requeued(run: RunFolder, start: Start) -> None:
    """End a job that does not start again. Without its script it would hold its nodes up to the time limit."""
    try:
        if not _is_this_start(start):
            return
        LOGGER.error("job %s ends. Go on with: all4one resume %s", start.job, quoted(run.path))
        slurm_commands.cancel(start.job)
    except UserError as error:
        LOGGER.error("job %s has no processes left, and could not be ended: %s", start.job, error.what)


def _newest_lock(run: RunFolder) -> tuple[Path, float] | None:
    """Return the newest lock of a run, and the time of its last sign of life."""
    try:
        newest = max((run.path / "lock").glob("*.json"))
        return newest, newest.stat().st_mtime
    except (OSError, ValueError):
        return None


def _is_released(lock: Path) -> bool:
    try:
        holder = Holder.read(lock.read_bytes())
    except OSError:
        return False
    return holder is not None and holder.released


def _is_this_start(start: Start) -> bool:
    facts = slurm_commands.facts(start.job)
    return facts["JobState"] == "RUNNING" and int(facts.get("Restarts", "0")) == start.restart


def _is_down(node: str) -> bool:
    """Whether SLURM says that a node is down."""
    said = slurm_commands.ask("scontrol", "--oneliner", "show", "node", node)
    state = next((word for word in said.split() if word.startswith("State=")), "")
    return "DOWN" in state
