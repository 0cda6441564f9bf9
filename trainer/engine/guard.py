"""The guard: a step whose gradient is broken, or far larger than usual, is left out.

It judges on the device and never waits for it. The host reads each verdict a step later, on every rank at the same
step, and goes back to an earlier checkpoint where too many steps in a row were left out (see trainer/loop.py).
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.settings import Settings

SETTLED = 100
"""Good steps that the usual norm is averaged over, and before which no norm counts as too large."""


class GuardSettings(Settings):
    """What protects a run from broken numbers and from hangs."""

    stall_seconds: int = Field(900, ge=0, lt=1800)
    """Seconds without a step, or a batch of an evaluation, after which every rank writes its stacks to the run's folder
    and ends; the job starts again. More than the slowest of: a step, a checkpoint's write, opening data and model.
    Below the 1800 s after which torch gives a collective up. 0: never."""
    spike_factor: float = Field(100, ge=0)
    """A step is left out where its gradient's norm exceeds this multiple of the average over the last 100 good steps.
    0: only where it is not finite."""
    max_skips: int = Field(5, ge=1)
    """Steps left out in a row after which, once one more is done, the run goes back to its newest good checkpoint, and
    on from there with the batches that follow."""
    max_rollbacks: int = Field(3, ge=0)
    """Times that the run goes back before it stops with a report."""


class Guard:
    """Judges the gradient of every step by its norm, which is the same on all ranks: a loss or gradient of one rank
    that is not finite makes it so. The online classifier's is no part of it: it is finite where features are.

    Args:
        settings: what counts as broken.
        device: where the norms are.
    """

    def __init__(self, settings: GuardSettings, device: torch.device) -> None:
        self._settings = settings
        self._state = torch.zeros(4, dtype=torch.float64, device=device)  # in the order of `state_dict`
        self._read: _Reading | None = None
        self.in_a_row = 0
        """Steps left out one after the other, up to the step before the last one that was judged."""

    @torch.no_grad()
    def judge(self, norm: Tensor) -> Tensor:
        """Whether a step with a gradient of this norm ([]) is to be left out: 1.0, else 0.0, on the device."""
        usual, good, skipped, in_a_row = self._state.unbind()
        broken = ~norm.isfinite()
        if self._settings.spike_factor:
            broken |= (good >= SETTLED) & (norm > self._settings.spike_factor * usual)
        share = 1 / (good + 1).clamp(max=SETTLED)
        self._state = torch.stack(
            [
                torch.where(broken, usual, torch.lerp(usual, norm.double(), share)),
                good + ~broken,
                skipped + broken,
                torch.where(broken, in_a_row + 1, 0.0),
            ]
        )
        if self._read is not None:
            self.in_a_row = int(self._read.values()[3])
        self._read = _Reading(self._state)
        return broken.float()

    @property
    def skipped(self) -> Tensor:
        """Steps left out in all, on the device: []."""
        return self._state[2]

    def state_dict(self) -> dict[str, float]:
        """What the next verdict depends on. Waits for the device."""
        return dict(zip(("usual_norm", "good", "skipped", "in_a_row"), self._state.tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        values = [state[name] for name in self.state_dict()]
        self._state = torch.tensor(values, dtype=torch.float64, device=self._state.device)
        self._read = _Reading(self._state)
        self.in_a_row = 0


class _Reading:
    """A copy of device values to the host, under way."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def values(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return list(self._host.tolist())


class BatchStatistics:
    """The running moments of all batch norms in a module, which a step with broken numbers must not leave broken.

    They are moved into one tensor, of which each batch norm keeps its part, so that all are put back at once.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        places = [
            (m, name)
            for m in norms
            for name in ("running_mean", "running_var")
            if m._buffers.get(name) is not None
        ]
        moments = [m.get_buffer(name) for m, name in places]
        self._all = torch.cat([t.flatten() for t in moments]) if moments else torch.empty(0)
        self._before = self._all.clone()
        for (norm, name), part in zip(places, self._all.split([t.numel() for t in moments]), strict=True):
            norm.register_buffer(name, part)

    def keep(self) -> None:
        """Remember the moments."""
        self._before.copy_(self._all)

    def restore(self, when: Tensor) -> None:
        """Put back what `keep` remembered where `when` ([]) is not 0."""
        torch.where(when.to(self._all.device) > 0, self._before, self._all, out=self._all)
