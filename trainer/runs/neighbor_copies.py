"""Copies of the state that ranks keep for each other in host memory, at ZeRO stages 1 and 2.

Every `checkpoint.replicate_every` steps each rank copies its shard of the optimizer's state to host memory, and sends
the copy to a neighbor, on another node if there is one. Two ranks of each node also copy the model, which every rank
holds alike. One of them is left wherever all shards are: the shard of the first one is kept by the second one or on
another node. After the loss of a rank, the ranks that are left have everything of that step (`trainer/survivors.py`).

There are two generations. The next copies overwrite the older one. They begin after the update of a later step, which
no rank finishes before all ranks hold the newer generation completely. So a rank may be lost at any time, and one
generation is complete. The host copies are what counts, never the live tensors, because the update of the interrupted
step may have changed some of these.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoints.host_copies import clone_to_host, copy_to_host
from trainer.checkpoints.packed_tensors import PackedTensors
from trainer.config.schema import Config
from trainer.distributed.neighbor_exchange import Exchange, NeighborExchange, neighbor_distance
from trainer.distributed.process_group import Process
from trainer.engine.deepspeed_engine import Engine
from trainer.runs.supervisor import HeldCopy, is_supervised

MODEL_HOLDERS = 2
"""Number of ranks of each node that keep the model."""
_LAST_WAIT_SECONDS = 1.0
"""After the loss of a rank: how long to wait for a shard that is on its way."""


@dataclass
class Generation:
    """The copies of one step on this rank."""

    step: int | None = None
    """The step. None: this rank's own part is not whole."""
    model: dict[str, Tensor] = field(default_factory=dict)
    """Empty if this rank keeps no model."""
    own: PackedTensors = field(default_factory=lambda: PackedTensors({}))
    received: PackedTensors = field(default_factory=lambda: PackedTensors({}))
    """The shard of the neighbor."""
    has_received: bool = False
    """Whether that shard is here."""
    state: dict[str, Any] = field(default_factory=dict)
    """The JSON part of a checkpoint."""


class NeighborCopies:
    """The copies that this rank keeps. Every rank makes one at the same time, and calls each method at the same time
    unless it says otherwise.

    Args:
        config: the run's settings.
        process: this rank.
        engine: holds the state.
    """

    def __init__(self, config: Config, process: Process, engine: Engine) -> None:
        self._engine, self._rank, self._device = engine, process.rank, process.device
        sharded = config.parallel.zero_stage > 0 and process.world_size > 1
        self._every = config.checkpoint.replicate_every if sharded and is_supervised() else 0
        self._keeps_model = process.local_rank < MODEL_HOLDERS
        self._last = 0
        self.lock = threading.Lock()
        """Held while the copies change. A thread that uses them holds it for ever."""
        self._older, self._newer = Generation(), Generation()
        self._pending: Exchange | None = None
        """The exchange of the shards of the newer generation, until it is over."""
        self._exchange: NeighborExchange | None = None
        if self._every:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            self._exchange = NeighborExchange(neighbor_distance(process.world_size, local))

    def begin_at(self, step: int) -> None:
        """Forget all copies, because training begins or goes on from a checkpoint of this step."""
        self.finish()
        self._last = step
        self._older.step = self._newer.step = None

    def due(self, step: int) -> bool:
        """Whether copies of this step are due if its state may be saved. The same on every rank."""
        return self._every > 0 and step - self._last >= self._every

    def begin(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy the state after `step` steps to host memory, and begin to send the shard. Sends one message of its size.

        Args:
            step: number of steps that are done. None of them is interrupted.
            state: the JSON part of a checkpoint of this step.

        Raises:
            RuntimeError: a rank is lost (`is_lost_peer`).
        """
        self.finish()
        if self._device.type == "cuda":
            # The host runs ahead. Only once the device has the weights of all ranks do they all hold the generation
            # before, so that the older one may go.
            torch.cuda.synchronize(self._device)
        with self.lock:
            self._copy(step, state)

    def _copy(self, step: int, state: Mapping[str, Any]) -> None:
        assert self._exchange is not None
        self._older, self._newer = self._newer, self._older
        copies = self._newer
        copies.step, copies.has_received, copies.state, self._last = None, False, dict(state), step
        shard = self._engine.own_shard()
        if not copies.own.fits(shard):
            copies.own, copies.received = PackedTensors(shard), PackedTensors(shard)
        copies.own.fill(shard)
        if self._keeps_model:
            model = self._engine.model_state()
            if copies.model:
                copy_to_host(model, copies.model)
            else:
                copies.model = clone_to_host(model)
        # What the device has computed since the loss of a rank may come from messages that never arrived.
        self._engine.loss_flag.refuse()
        copies.step = step
        self._pending = self._exchange.begin(copies.own.content, copies.received.content)

    def finish(self) -> None:
        """Wait for the copies that have begun, if there are any.

        Raises:
            RuntimeError: a rank is lost (`is_lost_peer`).
        """
        if self._pending is not None:
            self._pending.wait()
            self._pending, self._newer.has_received = None, True

    def held(self) -> tuple[HeldCopy, ...]:
        """Return what this rank holds after the loss of another one, newest first. It may be called without the other
        ranks."""
        if self._pending is not None and self._pending.has_come(_LAST_WAIT_SECONDS):
            self._pending, self._newer.has_received = None, True
        return tuple(
            HeldCopy(copies.step, self._shards(copies), bool(copies.model))
            for copies in (self._newer, self._older)
            if copies.step is not None
        )

    def of_step(self, step: int) -> Generation:
        """Return the copies of a step that `held` has named."""
        return next(copies for copies in (self._newer, self._older) if copies.step == step)

    def shards(self, step: int) -> tuple[int, ...]:
        """Return the ranks whose shards of a step this rank holds."""
        return self._shards(self.of_step(step))

    def shard(self, step: int, rank: int) -> PackedTensors:
        """Return a shard of a step that `held` has named."""
        copies = self.of_step(step)
        return copies.own if rank == self._rank else copies.received

    def _shards(self, copies: Generation) -> tuple[int, ...]:
        """Return the ranks whose shards the copies of a step have."""
        if self._exchange is None or not copies.has_received:
            return (self._rank,)
        return self._rank, self._exchange.ward
