"""The divergence guard: skip a step if its gradient is not finite or far larger than usual.

The check runs on the device and never waits for it. The host reads each result one step later, at the same step on
every rank. If too many steps in a row are skipped, the run rolls back to an earlier checkpoint (see trainer/loop.py).
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from data_pipelines.settings import Settings
from trainer.distributed.host_reading import HostReading

SETTLED = 100
"""Number of good steps over which the usual norm is averaged. Before that many, no norm counts as too large."""


class GuardSettings(Settings):
    """Protection against broken gradients, silent corruption and hangs."""

    stall_seconds: int = Field(900, ge=0, lt=1800)
    """Seconds without a training step or evaluation batch after which the run counts as stalled. Every rank then writes
    its stacks to the run's folder and ends, and the job restarts. Set it above the slowest step, checkpoint write, and
    opening of data and model. Keep it below 1800 s, the time after which torch aborts a collective. 0: never."""
    hang_seconds: int = Field(30, ge=0)
    """Seconds without a training step, or ten times the usual step if that is longer, after which the program that has
    started the ranks looks for the rank that hangs. It ends this rank, and the ranks start again in place. Evaluations,
    checkpoints and the start may take up to `guard.stall_seconds`. 0: only `guard.stall_seconds` counts."""
    spike_factor: float = Field(100, ge=0)
    """A step is skipped if its gradient norm exceeds this multiple of the average over the last 100 good steps. 0: only
    if it is not finite."""
    max_skips: int = Field(5, ge=1)
    """Number of steps skipped in a row that causes a rollback. After one more step, the run loads its newest good
    checkpoint and continues with the batches that follow."""
    max_rollbacks: int = Field(3, ge=0)
    """Maximum number of rollbacks. After that the run stops with a report."""
    check_replicas_every: int = Field(200, ge=0)
    """Steps between comparisons of the state that all ranks hold alike: weights, momentum (EMA) encoder, buffers and
    queue, and at ZeRO stage 0 the optimizer's state. If a rank differs, a device has corrupted data silently. The run
    then stops and names the rank. The state is also compared when an attempt begins and at the last step. 0: never."""


class Guard:
    """Checks the gradient of every step by its norm.

    The norm is the same on all ranks: if the loss or gradient of one rank is not finite, neither is the norm. The
    online classifier is not included, because its gradient is finite whenever the features are.

    Args:
        settings: limits for a good step.
        device: device of the norms.
    """

    def __init__(self, settings: GuardSettings, device: torch.device) -> None:
        self._settings = settings
        self.state = torch.zeros(4, dtype=torch.float64, device=device)
        """[4], in the order of `state_dict`. Each check replaces it."""
        self._read: HostReading | None = None
        self.in_a_row = 0
        """Number of consecutive skipped steps, up to the step before the last checked one."""

    @torch.no_grad()
    def check(self, norm: Tensor) -> Tensor:
        """Return 1.0 if a step with this gradient norm ([]) must be skipped, otherwise 0.0, on the device."""
        usual, good, skipped, in_a_row = self.state.unbind()
        broken = ~norm.isfinite()
        if self._settings.spike_factor:
            broken |= (good >= SETTLED) & (norm > self._settings.spike_factor * usual)
        share = 1 / (good + 1).clamp(max=SETTLED)
        self.state = torch.stack(
            [
                torch.where(broken, usual, torch.lerp(usual, norm.double(), share)),
                good + ~broken,
                skipped + broken,
                torch.where(broken, in_a_row + 1, 0.0),
            ]
        )
        if self._read is not None:
            self.in_a_row = int(self._read.values()[3])
        self._read = HostReading(self.state)
        return broken.float()

    @property
    def skipped(self) -> Tensor:
        """Total number of skipped steps, on the device: []."""
        return self.state[2]

    def state_dict(self) -> dict[str, float]:
        """Return the state on which the next check depends. Waits for the device."""
        return dict(zip(("usual_norm", "good", "skipped", "in_a_row"), self.state.tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the state from `state_dict`."""
        values = [state[name] for name in self.state_dict()]
        self.state = torch.tensor(values, dtype=torch.float64, device=self.state.device)
        self._read = HostReading(self.state)
        self.in_a_row = 0
