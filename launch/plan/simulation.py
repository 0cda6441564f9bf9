"""A simulation of many runs at once, from failure to failure, under the rules by which runs restart.

The rules are those of `launch/local/recovery.py`, `launch/slurm/first_agent.py` and `launch/slurm/record_failure.py`:

- A rank is lost, and agents recover in place. A rank that is left saves the last finished step or, if the optimizer's
  state is sharded, the last one that ranks have copied for each other. Otherwise the ranks go back to the last
  checkpoint.
- A node is lost, and the job holds a spare. The spare takes its place in the same way.
- A node is lost without a spare. The run goes on with the nodes that are left, if it may (`slurm.shrink`). Their steps
  take longer in proportion, because the global batch stays. Otherwise the job is requeued after that save.
- The first node is lost, or agents do not recover. The job is requeued and goes back to the last checkpoint.
- At its time limit the job saves and is requeued. A requeue gives it all nodes and spares again.
- A run stops for its user if it fails again and again at the same checkpoint.

Failures of nodes are independent and have no memory. They also come while ranks restart. A spare has no ranks that
could fail. What is lost stays lost until the job is requeued.
"""

import numpy as np
from numpy.typing import NDArray

from launch.local.recovery import MOST_RESTARTS
from launch.plan.assumptions import Assumptions
from launch.plan.outcome import EVALUATING, REDONE, RESTARTING, SAVING, SPARE, USEFUL, Outcome, summarize
from launch.plan.random_failures import RandomFailures
from launch.plan.step_clock import StepClock

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


def simulate(assumptions: Assumptions, random: RandomFailures) -> Outcome:
    """Return what runs under the assumptions come to. The same numbers give the same outcome."""
    runs = _Runs(assumptions, random.waits.shape[1])
    for waits, kinds in zip(random.waits, random.kinds, strict=True):
        if not runs.active.any():
            break
        runs.advance(waits, kinds)
    return summarize(assumptions, runs.seconds, runs.elapsed, runs.counts, runs.done)


class _Runs:
    """The state of many runs. Every array has one value a run."""

    def __init__(self, assumptions: Assumptions, count: int) -> None:
        self._a = assumptions
        self.active = np.ones(count, bool)
        causes = (USEFUL, REDONE, RESTARTING, SAVING, EVALUATING, SPARE)
        self.seconds = {cause: np.zeros(count) for cause in causes}
        """Allocated time by cause, times the fraction of the nodes that it concerns."""
        self.elapsed = np.zeros(count)
        self.counts = {name: np.zeros(count) for name in ("failures", "requeues", "stops")}
        self.done = np.zeros(count)
        """The step from which the newest attempt began, or the last one."""
        self._crew = np.full(count, float(assumptions.nodes))
        """Nodes that have ranks."""
        self._spares = np.full(count, float(assumptions.spares))
        self._age = np.zeros(count)
        """Allocated time since the start of the job."""
        self._in_vain = np.zeros(count)
        """Restarts in place in a row without a new step on the disk."""
        self._killed_at = np.full(count, -1.0)
        """Checkpoint to which the job went back after it last lost a rank."""
        self._pending = np.full(count, assumptions.start_seconds)
        """Time until the first step of the attempt is finished."""
        self._base, self._phase, self._began = (np.zeros(count) for _ in range(3))
        """The multiple of the interval below the attempt, and times since then: of now, and of the first step."""
        self._begin_attempt(np.ones(count, bool), self.done)

    def _begin_attempt(self, these: Mask, step: Values) -> None:
        """Set the clock of runs to the first finished step after `step`, which belongs to the restart."""
        self._clock = StepClock.of(self._a, self._slower)
        self.done = np.where(these, step, self.done)
        base = self.done - self.done % self._clock.every
        first = (self.done - base + 1) * self._clock.pace
        self._base = np.where(these, base, self._base)
        self._phase = np.where(these, first, self._phase)
        self._began = np.where(these, first, self._began)

    @property
    def _slower(self) -> Values:
        """How many times as long a step takes as on all nodes."""
        return self._a.nodes / self._crew

    def advance(self, waits: Values, kinds: Values) -> None:
        """Go on to the next event of each run: a failure, the time limit or the end."""
        a, clock = self._a, self._clock
        healthy = self._crew + self._spares * (1 - a.rank_failures)
        failure = waits * a.mtbf_seconds / healthy
        limit = np.maximum(0.0, a.time_limit_seconds - self._age)
        end = self._pending + np.maximum(0.0, clock.moment(a.steps - self._base) - self._phase)
        passed = np.minimum(np.minimum(failure, limit), end)
        has_step = passed >= self._pending
        now = self._phase + np.maximum(0.0, passed - self._pending)
        reached = np.where(has_step, np.minimum(self._base + clock.steps(now), a.steps), self.done)
        on_disk = np.where(has_step, np.maximum(self.done, self._base + clock.saved(now)), self.done)
        self._spend(RESTARTING, self.active, np.minimum(passed, self._pending))
        self.elapsed += np.where(self.active, passed, 0.0)
        self._age += passed

        is_end = self.active & (end <= np.minimum(failure, limit))
        is_limit = self.active & ~is_end & (limit <= failure)
        is_failure = self.active & ~is_end & ~is_limit
        of_spare = is_failure & (kinds * healthy >= self._crew)
        of_rank = is_failure & (kinds * healthy < self._crew * a.rank_failures)
        of_node = is_failure & ~of_spare & ~of_rank
        self.counts["failures"] += of_rank | of_node

        self._spares -= of_spare
        self._phase = np.where(of_spare, now, self._phase)
        self._pending = np.where(of_spare, np.maximum(0.0, self._pending - passed), self._pending)

        # Each node has the same part of the values of `kinds` that mean the loss of a node.
        of_first = of_node & (kinds * healthy < self._crew * a.rank_failures + 1 - a.rank_failures)
        held = reached
        if a.copies_every:
            held = np.maximum(on_disk, reached - (reached - self.done) % a.copies_every)
        in_place, stays = self._recovered(of_rank, of_node, of_first, held, on_disk)
        resume = np.where(is_end | is_limit, reached, np.where(stays, held, on_disk))
        self._account(self.active & ~of_spare, has_step, now, reached, resume)
        requeued = is_limit | ((of_rank | of_node) & ~in_place)
        self._wait(SAVING, is_end | is_limit, a.save_seconds + a.write_seconds)
        self._wait(RESTARTING, of_rank & requeued, a.release_seconds)
        self._wait(RESTARTING, of_node & ~of_first & requeued, a.detection_seconds)
        self._wait(RESTARTING, of_first, a.first_detection_seconds)
        self._requeue(requeued)
        # Ranks that are lost before the first step of the job start again with it.
        restart = np.maximum(a.in_place_seconds, self._pending - passed)
        self._pending = np.where(
            in_place, restart + np.where(of_node, a.detection_seconds, 0.0), self._pending
        )
        replaced = in_place & of_node & (self._spares > 0)
        self._spares -= replaced
        self._crew -= in_place & of_node & ~replaced
        self._begin_attempt(self.active & ~of_spare, resume)
        self.active &= ~is_end

    def _recovered(
        self, of_rank: Mask, of_node: Mask, of_first: Mask, held: Values, on_disk: Values
    ) -> tuple[Mask, Mask]:
        """Return which failures are recovered inside of the job, and in which of them the ranks that are left save.

        Args:
            of_rank: runs that lose a rank.
            of_node: runs that lose a node.
            of_first: those of them that lose the first node.
            held: the step that the ranks that are left can save.
            on_disk: the step of the newest checkpoint.
        """
        a = self._a
        if not a.recovers_in_place:
            # As `is_crash_loop` finds: the last two losses of a rank had the same newest checkpoint.
            again = of_rank & (on_disk == self._killed_at)
            self.counts["stops"] += again
            self._killed_at = np.where(again, -1.0, np.where(of_rank, on_disk, self._killed_at))
            return np.zeros_like(of_rank), np.zeros_like(of_rank)
        later = of_node & ~of_first
        is_left = self._crew * a.ranks_per_node > 1
        stays = (of_rank & a.rank_survives & is_left) | (later & a.node_survives)
        shrinks = np.isin(self._crew - 1, list(a.shrinks_to))
        tried = of_rank | (later & ((self._spares > 0) | shrinks))
        is_new = np.where(stays, held, on_disk) > self.done
        vain = np.where(is_new, 0.0, self._in_vain)
        gives_up = tried & (vain >= MOST_RESTARTS)
        self.counts["stops"] += gives_up
        self._in_vain = np.where(tried, vain + 1, self._in_vain)
        return tried & ~gives_up, stays

    def _account(self, these: Mask, has_step: Mask, now: Values, reached: Values, resume: Values) -> None:
        """Add up the time of attempts that end. As in `launch/status/goodput.py`, the first step is a restart's."""
        a, clock = self._a, self._clock
        made = np.where(has_step, reached - self.done, 0.0)
        kept = np.where(has_step, resume - self.done, 0.0)
        timed = np.maximum(0.0, made - 1)
        step = a.step_seconds * self._slower
        useful = timed * step * kept / np.maximum(1.0, made)
        stalls = np.where(has_step, clock.stalls(now) - clock.stalls(self._began), 0.0)
        begun = np.where(has_step, now - self._began - timed * clock.pace - stalls, 0.0)
        self._spend(USEFUL, these, useful)
        self._spend(REDONE, these, np.maximum(0.0, timed * step - useful))
        self._spend(EVALUATING, these, timed * a.evaluation_seconds * self._slower)
        self._spend(SAVING, these, stalls + timed * a.copy_seconds)
        self._spend(RESTARTING, these, np.maximum(0.0, begun))

    def _spend(self, cause: str, these: Mask, seconds: Values | float) -> None:
        """Name the cause of time that has passed. Nodes that were lost wait meanwhile, as spares do."""
        spent = np.where(these, seconds, 0.0)
        busy = self._crew / self._a.nodes
        self.seconds[cause] += spent * busy
        self.seconds[SPARE] += spent * (1 - busy)

    def _wait(self, cause: str, these: Mask, seconds: float) -> None:
        """Let time pass after the end of an attempt."""
        self._spend(cause, these, seconds)
        self.elapsed += np.where(these, seconds, 0.0)

    def _requeue(self, these: Mask) -> None:
        self.counts["requeues"] += these
        self.elapsed += np.where(these, self._a.queue_seconds, 0.0)
        self._age = np.where(these, 0.0, self._age)
        self._crew = np.where(these, float(self._a.nodes), self._crew)
        self._spares = np.where(these, float(self._a.spares), self._spares)
        self._in_vain = np.where(these, 0.0, self._in_vain)
        self._pending = np.where(these, self._a.start_seconds, self._pending)
