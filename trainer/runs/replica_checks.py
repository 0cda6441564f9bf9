"""When the state of the ranks is compared, and what follows if a rank differs.

The state is compared every `guard.check_replicas_every` steps and at the last step. Each result is read one step later,
so that the host does not wait for the device. If a checkpoint is due before that, the result is read first. The queue
alone is also compared every `method.queue.check_every` steps.

Checkpoints up to the last equal comparison can be trusted. Rank 0 writes them, and its state was that of all ranks. The
newest of them is kept until a comparison trusts a newer one. Checkpoints after the last equal comparison are suspect.
If a rank differs, they are set aside, and the next attempt resumes from the newest one that is left. A comparison of
the queue alone makes no checkpoint trusted, unless nothing else is compared.

The state is also compared when an attempt begins and after a rollback, right after a checkpoint was loaded. This costs
one comparison. It finds what goes wrong while a checkpoint is read and copied to a device. It also gives every attempt
its first equal comparison, so a checkpoint that was loaded is never set aside. Going back further would not help: all
ranks now hold what the file holds, and no comparison can tell whether rank 0 was corrupt when it wrote the file.
"""

import os
from typing import Protocol

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from trainer.distributed.objects import all_gather_object, broadcast_object
from trainer.engine.deepspeed_engine import Engine
from trainer.engine.replicas import Comparison, Difference, StateKind
from trainer.runs.components import AttemptContext
from trainer.runs.saved_progress import REPLICAS_DIFFER

_MOST_NAMES = 20  # of tensors of a kind in a record


class Checkpoints(Protocol):
    """What the comparisons need of the checkpoints."""

    def trust(self, step: int) -> None:
        """Keep the newest checkpoint up to a step from now on."""

    def set_aside(self, step: int) -> tuple[list[str], int]:
        """Set aside the checkpoints after a step. Returns their new names, and the step from which the next attempt
        resumes. Only rank 0 calls."""


class ReplicaChecks:
    """Compares the state of the ranks while a run trains. Every rank calls each method at the same time.

    Args:
        attempt: the attempt.
        engine: holds the state.
        total_steps: number of steps of the run.
        checkpoints: the run's checkpoints.
    """

    def __init__(
        self, attempt: AttemptContext, engine: Engine, total_steps: int, checkpoints: Checkpoints
    ) -> None:
        self._attempt, self._engine = attempt, engine
        self._total_steps, self._checkpoints = total_steps, checkpoints
        queue, alone = engine.method.queue, attempt.process.world_size == 1
        self._every = 0 if alone else attempt.config.guard.check_replicas_every
        self._queue_every = 0 if alone or queue is None else queue.settings.check_every
        self._pending: tuple[int, Comparison] | None = None
        self._last_equal = 0

    def begin_at(self, step: int) -> None:
        """Compare the state with which training begins or goes on, and wait for the result.

        Raises:
            UserError: as for `finish`.
        """
        self._last_equal = step
        if self._every:
            self._pending = step, self._engine.compare_replicas()
            self.finish()
        elif self._queue_every:
            self._checkpoints.trust(step)

    def after_step(self, step: int) -> None:
        """Read the result of the comparison before, and begin one after `step` steps if it is due.

        Raises:
            UserError: as for `finish`.
        """
        self.finish()
        if kinds := self._due(step):
            self._pending = step, self._engine.compare_replicas(kinds)

    def finish(self) -> None:
        """Read the result of a comparison that has begun, if there is one.

        Raises:
            UserError: ranks differ. The ledger has a record of it, and suspect checkpoints are set aside.
        """
        if self._pending is None:
            return
        (step, comparison), self._pending = self._pending, None
        difference = comparison.difference()
        self._engine.loss_flag.refuse()
        if difference is not None:
            self._stop(step, difference)
        if comparison.is_complete or not self._every:
            self._last_equal = step
            self._checkpoints.trust(step)

    def _due(self, step: int) -> tuple[StateKind, ...]:
        """Return the kinds of state to compare after `step` steps."""
        if self._every and (step % self._every == 0 or step == self._total_steps):
            return tuple(StateKind)
        return (StateKind.QUEUE,) if self._queue_every and step % self._queue_every == 0 else ()

    def _stop(self, step: int, difference: Difference) -> None:
        """Set aside the suspect checkpoints, record the difference and raise the error. All ranks wait for rank 0,
        because the first rank that ends would end all."""
        nodes = all_gather_object(os.environ.get("SLURMD_NODENAME") or os.uname().nodename)
        own = [nodes[rank] for rank in difference.ranks]
        done: tuple[list[str], int] = ([], 0)
        if self._attempt.process.is_first:
            done = self._checkpoints.set_aside(self._last_equal)
            self._attempt.run.note(
                REPLICAS_DIFFER,
                attempt=self._attempt.number,
                step=step,
                ranks=difference.ranks,
                nodes=",".join(own),
                has_majority=difference.has_majority,
                tensors={kind: names[:_MOST_NAMES] for kind, names in difference.tensors.items()},
                num_tensors={kind: len(names) for kind, names in difference.tensors.items()},
                last_equal=self._last_equal,
                set_aside=done[0],
                to_step=done[1],
            )
        moved, resumes_from = broadcast_object(done)
        since = f"The last equal comparison was at step {self._last_equal}"
        if step == self._last_equal:
            since = "Training began with this state"
        raise UserError(
            f"{description(difference, own)} after step {step}. {since}",
            where=self._attempt.run.path,
            fix=self._fix(difference, own, moved, resumes_from),
        )

    def _fix(self, difference: Difference, nodes: list[str], moved: list[str], resumes_from: int) -> str:
        """Return what the user can do.

        Args:
            difference: what differs.
            nodes: the nodes of its ranks.
            moved: names of the checkpoints that were set aside.
            resumes_from: step of the newest checkpoint that is left. 0: there is none.
        """
        folder = self._attempt.run.checkpoints
        said = ["a device, its memory or a network link has corrupted data."]
        if moved:
            said.append(f"Later checkpoints are suspect. They are now called {', '.join(moved)} in {folder}.")
        if resumes_from > self._last_equal:
            said.append(f"Remove the checkpoints after step {self._last_equal} from {folder} first.")
        exclude = ""
        if "SLURM_JOB_ID" in os.environ and difference.has_majority:
            exclude = f" --exclude {','.join(sorted(set(nodes)))}"
        said.append(
            f"Check {' and '.join(sorted(set(nodes)))}, or use other nodes. Then run: all4one resume "
            f"{quoted(self._attempt.run.path)}{exclude}. It goes on from step {min(resumes_from, self._last_equal)}"
        )
        return " ".join(said)


def description(difference: Difference, nodes: list[str]) -> str:
    """Return which ranks differ, and in what. `suspect_nodes` finds the node of a single rank in it.

    Args:
        difference: what differs.
        nodes: the nodes of its ranks.
    """
    named = [f"{rank} on {node}" for rank, node in zip(difference.ranks, nodes, strict=True)]
    shown = " and ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    ranks = f"rank{'s' * (len(named) > 1)} {shown}"
    tensors = ", ".join(
        f"{kind} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
        for kind, names in difference.tensors.items()
    )
    if difference.has_majority:
        return f"the state of {ranks} differs from that of most ranks: {tensors}"
    return f"the state of {ranks} differs, and no majority tells which of them is right: {tensors}"
