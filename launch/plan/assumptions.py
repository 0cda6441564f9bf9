"""What a simulation of a run knows: the cluster, its failures, and what each event costs."""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError


@dataclass(frozen=True)
class Assumptions:
    """The numbers of a simulated run. All times are in seconds.

    Raises:
        UserError: a number is out of its range.
    """

    nodes: int
    """Number of nodes that train."""
    ranks_per_node: int
    spares: int
    """Number of nodes that the job holds in reserve. They are allocated and do not train."""
    mtbf_seconds: float
    """Mean time between the failures of one node, of its ranks or of the node itself."""
    rank_failures: float
    """Fraction of the failures that end a rank and leave its node healthy."""
    step_seconds: float
    evaluation_seconds: float
    """Time of evaluations, spread over all steps."""
    every_steps: int
    """Steps between checkpoints. 0: there are none during the run."""
    save_seconds: float
    """Time for which steps wait for the copy of the state."""
    write_seconds: float
    """Time from the copy until the checkpoint is on the disk."""
    in_place_seconds: float
    """From the loss of a rank to the first finished step, if the job keeps its nodes."""
    start_seconds: float
    """From the allocation of the nodes to the first finished step."""
    queue_seconds: float
    """Wait of a requeued job for its nodes. No device is allocated meanwhile."""
    detection_seconds: float
    """From the failure of a node until it is noticed."""
    first_detection_seconds: float
    """The same for the first node of the job, on which no agent is left that decides."""
    release_seconds: float
    """From the loss of a rank until the job has given back its nodes, if it is requeued."""
    steps: int
    """Number of steps of the run."""
    time_limit_seconds: float
    """Allocated time after which the job saves and is requeued. Infinity: there is no limit."""
    recovers_in_place: bool
    """Whether agents start the ranks again inside of the job, as `slurm.recovery: in_place` does."""
    survivors_save: bool
    """Whether the ranks that are left can save a step: the last finished one, or that of `copies_every`."""
    shrinks_to: tuple[int, ...] = ()
    """Numbers of nodes with which the run may go on if one is lost and no spare is left."""
    copies_every: int = 0
    """Steps between copies that ranks keep for each other. The ranks that are left save the newest of these. 0: each
    rank has the whole state."""

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node", "steps"):
            self._require(name, "at least 1", getattr(self, name) >= 1)
        for name in ("spares", "every_steps", "copies_every"):
            self._require(name, "0 or more", getattr(self, name) >= 0)
        for name in ("mtbf_seconds", "step_seconds"):
            self._require(name, "a positive time", 0 < getattr(self, name) < math.inf)
        self._require("time_limit_seconds", "a positive time", self.time_limit_seconds > 0)
        self._require("rank_failures", "between 0 and 1", 0 <= self.rank_failures <= 1)
        costs = [f.name for f in fields(self) if f.name.endswith("_seconds") and f.name not in _POSITIVE]
        for name in costs:
            self._require(name, "0 or more", 0 <= getattr(self, name) < math.inf)

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise UserError(
                f"{name.removesuffix('_seconds')} must be {what}, not {getattr(self, name)}",
                fix=f"give another value with {OPTIONS.get(name, 'the setting of the recipe')}",
            )

    @property
    def pace(self) -> float:
        """Seconds of a step with its part of the evaluations and of the copies for neighbors."""
        return float(self.pace_on(1.0))

    def pace_on(self, slower: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """Return the same for nodes whose steps take `slower` times as long. A copy takes as long as on all nodes."""
        return (self.step_seconds + self.evaluation_seconds) * slower + self.copy_seconds

    @property
    def copy_seconds(self) -> float:
        """Seconds for which a step waits for copies for neighbors, spread over all steps. A copy takes about as long as
        that of a checkpoint."""
        return self.save_seconds / self.copies_every if self.survivors_save and self.copies_every else 0.0

    @property
    def least_nodes(self) -> int:
        """The smallest number of nodes with which the run goes on, if it loses one after the other."""
        left = self.nodes
        while left - 1 in self.shrinks_to:
            left -= 1
        return left

    @property
    def rank_survives(self) -> bool:
        """Whether ranks are left after the failure of a rank that can save a step."""
        return self.recovers_in_place and self.survivors_save and self.nodes * self.ranks_per_node > 1

    @property
    def node_survives(self) -> bool:
        """The same after the failure of a node that is not the first one."""
        return self.recovers_in_place and self.survivors_save and self.nodes > 1


_POSITIVE = ("mtbf_seconds", "step_seconds", "time_limit_seconds")
OPTIONS = {
    "nodes": "--nodes",
    "spares": "--spares",
    "mtbf_seconds": "--mtbf",
    "rank_failures": "--rank-failures",
    "step_seconds": "--step-time",
    "evaluation_seconds": "--evaluation-time",
    "save_seconds": "--save-time",
    "write_seconds": "--write-time",
    "in_place_seconds": "--restart-time",
    "start_seconds": "--start-time",
    "queue_seconds": "--queue-time",
    "detection_seconds": "--detection-time",
    "release_seconds": "--release-time",
    "steps": "--steps",
}
"""The option of `all4one plan` for each number that has one."""
