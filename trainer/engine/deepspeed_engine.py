"""DeepSpeed behind few methods: step, state, load_state, close. See `deepspeed_setup.py` for its settings."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.prefetch import nothing
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.deepspeed_internals import leave_gradients_alone
from trainer.distributed.gradient_buckets import GradientBuckets
from trainer.distributed.loss_flag import LossFlag
from trainer.distributed.process_group import leave_together
from trainer.distributed.rank_record import own_record
from trainer.distributed.record_layout import Phase
from trainer.engine.batch_statistics import BatchStatistics
from trainer.engine.deepspeed_setup import deepspeed_config, initialize_deepspeed
from trainer.engine.divergence_guard import Guard, GuardSettings
from trainer.engine.lr_schedule import Schedule
from trainer.engine.optimizers import freeze
from trainer.engine.replicas import Comparison, StateKind, replicas_of
from trainer.engine.step_undo import StepUndo
from trainer.engine.value_means import PendingMeans
from trainer.engine.zero import OptimizerStateLayout, ReplicatedState, ShardedState
from trainer.methods import Method
from trainer.methods.base import LABEL_METRICS

_STEPS_AHEAD = 2
"""Steps that the host may have begun after the last one that is finished on the device. The guard reads the result of
each step one step later, so the host is never further ahead."""

_NO_RANK = 2**32 - 1
"""Stands in place of a rank in the seed that all ranks share."""


class Engine:
    """Trains one method with DeepSpeed over all processes.

    Args:
        method: the module on its device. Its parameters are the same on every rank, its buffers need not be.
        optimizer: optimizer of the method's trainable parameters.
        schedule: learning rates by step.
        micro_batch: rows of one forward pass on this rank.
        accumulation: forward passes of one step.
        max_grad_norm: largest global gradient norm. 0: no clipping.
        seed: seed of the random numbers within a step: dropout, and what a method draws.
        total_steps: steps of the whole run, for the cosine schedule of the EMA momentum.
        zero: ZeRO stage: 0 (everything on every rank), 1 (sharded optimizer state) or 2 (sharded gradients too).
        gradient_dtype: type in which gradients are averaged, "fp32" or "bf16". With float64 weights it is float64.
        guard: which steps are skipped.
        health_every: steps between those that compute all health values. 0: none.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        micro_batch: int,
        accumulation: int,
        max_grad_norm: float,
        seed: int,
        total_steps: int,
        zero: int = 0,
        gradient_dtype: str = "fp32",
        guard: GuardSettings | None = None,
        health_every: int = 0,
    ) -> None:
        self.method, self.optimizer, self.schedule = method, optimizer, schedule
        self.micro_batch, self.accumulation, self.max_grad_norm = micro_batch, accumulation, max_grad_norm
        self.seed, self.total_steps, self.health_every = seed, total_steps, health_every
        parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
        config = deepspeed_config(micro_batch, accumulation, zero, gradient_dtype)
        self._deepspeed = initialize_deepspeed(method, optimizer, config)
        _broadcast_buffers(method)
        if zero:
            self._layout: OptimizerStateLayout = ShardedState(
                self._deepspeed.optimizer, optimizer, parameters
            )
        else:
            # Only now, because DeepSpeed cannot broadcast channels-last weights.
            method.to(memory_format=torch.channels_last)
            self._layout = ReplicatedState(optimizer, parameters, self._buckets(parameters, gradient_dtype))
        device = next(method.parameters()).device
        self.guard = Guard(guard or GuardSettings(), device)
        self.loss_flag = LossFlag(device)
        """Set it as soon as another rank is lost."""
        self._statistics = BatchStatistics(method, _STEPS_AHEAD)
        self._undo = StepUndo(method, self._statistics, self.guard, _STEPS_AHEAD)
        self._left_out = torch.zeros((), device=device)
        self._in_update = False
        self._record = own_record()

    def _buckets(self, parameters: Mapping[str, nn.Parameter], gradient_dtype: str) -> GradientBuckets | None:
        """Return the buckets that average gradients at stage 0, or None for one process. They replace DeepSpeed, which
        begins only after the backward pass."""
        leave_gradients_alone(self._deepspeed)
        if world_size() == 1:
            return None
        own = list(parameters.values())
        dtype = torch.bfloat16 if gradient_dtype == "bf16" else own[0].dtype
        return GradientBuckets(own, dtype, due=self._deepspeed.is_gradient_accumulation_boundary)

    def step(
        self,
        step: int,
        batches: Iterable[Batch],
        *,
        over_ranks: bool = False,
        before_update: Callable[[], None] = nothing,
    ) -> dict[str, Tensor]:
        """Run optimizer step number `step` (from 0) on `accumulation` micro-batches.

        If the guard finds the gradient broken, weights, optimizer, running batch statistics and further buffers of the
        method do not change.
        At ZeRO stage 0 the update begins after the last message of the step. A rank that loses another one has
        therefore either finished the step, or can undo it with `undo_unfinished`. A CUDA device leaves out the update
        if `loss_flag` is set by then.

        Args:
            step: number of the step.
            batches: micro-batches of this rank.
            over_ranks: whether the values are averaged over the ranks, with one message.
            before_update: called once, before this rank's update. At ZeRO stages 1 and 2 no rank finishes the step
                before the call has returned on all ranks, because the update sends messages.

        Returns losses and health values as scalars on the device, averaged over the micro-batches. They include
        `gradient_norm` before clipping and `skipped_steps` so far.
        """
        self._prepare(step)
        outputs: list[Mapping[str, Tensor]] = []
        for index, batch in enumerate(batches):
            # Forward: keys of the momentum encoder, neighbors, centroids, and the method's contrasts.
            self._record.enter(Phase.FORWARD)
            torch.manual_seed(step_seed(self.seed, step, index, rank()))
            self.method.shared_seed = step_seed(self.seed, step, index, _NO_RANK)
            out = self._deepspeed(batch.views, batch.labels, batch.ids)
            # Backward: gradients are averaged over the ranks during it, and gathered keys enter the queue after it.
            self._record.enter(Phase.BACKWARD)
            self._deepspeed.backward(out.loss)
            self._record.enter(Phase.QUEUE)
            self.method.after_backward()
            self._record.enter(Phase.UPDATE)
            outputs.append(out.parts)
            if index == self.accumulation - 1:
                values = {name: _mean(name, [p[name].float() for p in outputs]) for name in outputs[0]}
                means = PendingMeans(values) if over_ranks else None
                statistics = self._statistics.start_mean()
                # The gradient is complete: clip it, and let the guard check it on the device.
                norm = self._clip()
                values = means.result() if means is not None else values
                self._statistics.finish_mean(statistics)
                before_update()
                # That was the last message. If a peer is lost, what the messages brought may be wrong.
                lost = self.loss_flag.read()
                self._left_out += lost
                self._in_update = True
                broken = self.guard.check(norm)
                self.optimizer.found_inf = torch.maximum(broken, lost)  # type: ignore[attr-defined]
            # Update at the last micro-batch, unless the gradient is broken or a peer is lost.
            self._deepspeed.step()
        self._statistics.restore(broken)
        self._undo.restore(broken)
        # EMA: the momentum encoder follows the weights.
        self._record.enter(Phase.EMA)
        self.method.skip_update = lost
        self.method.after_step(step + 1, self.total_steps)
        if self.method.unit_rows:
            self._layout.take_weights()
        self._undo.finish()
        self._in_update = False
        return {**values, "gradient_norm": norm, "skipped_steps": self.guard.skipped}

    def undo_unfinished(self) -> int | None:
        """Return to the state after the last finished step, once another rank is lost.

        Waits for the device, so no message may keep it waiting: set `loss_flag` and abort all messages before.

        Returns the number of steps that `step` has run and the device has not finished, or None if this rank does not
        have that state: its update was interrupted, or other ranks hold parts of the optimizer's state.
        """
        if self._in_update or not isinstance(self._layout, ReplicatedState):
            return None
        left_out = int(self._left_out)
        # An own rule for the EMA encoder may have moved it although the update was left out.
        if left_out and type(self.method).after_step is not Method.after_step:
            return None
        return left_out if self._undo.undo(left_out) else None

    def _prepare(self, step: int) -> None:
        """Set the learning rates of the step, and keep what it moves in case its gradient is broken."""
        self.method.train()
        self.method.step, self.method.total_steps = step, self.total_steps
        self.schedule.apply(self.optimizer, step)
        freeze(self.optimizer, step)
        self._undo.begin()
        self.method.log_diagnostics = self.health_every > 0 and (step + 1) % self.health_every == 0

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Scale the averaged gradient down to the largest norm allowed. Returns the norm before scaling."""
        gradients = self._layout.gradients()
        norm = self._layout.norm(gradients)
        if self.max_grad_norm:
            torch._foreach_mul_(gradients, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1))
        return norm

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return named full tensors of the model (weights, EMA encoders, buffers, queue) and of the optimizer.

        Every rank calls. Only rank 0 is sure to get the optimizer's tensors.
        """
        return self.model_state(), self._layout.state()

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's part of `state`. No message is sent."""
        return dict(self.method.state_dict())

    def own_shard(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors that only this rank holds. Empty at ZeRO stage 0. No message is sent."""
        return self._layout.own_shard()

    def join_shards(self, shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the optimizer's tensors as `state` does from copies of every rank's `own_shard`, by rank."""
        return self._layout.join_shards(shards)

    def compare_replicas(self, kinds: Collection[StateKind] = tuple(StateKind)) -> Comparison:
        """Begin to compare the state that all ranks hold alike. Every rank calls."""
        replicas = replicas_of(self.method, self._layout.replicated_state())
        return Comparison(replicas, kinds, next(self.method.parameters()).device)

    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, from a run with any number of processes, ZeRO stage and accumulation.

        Raises:
            UserError: names or shapes differ.
        """
        load_model(self.method, model)
        self._layout.load_state(optimizer)
        self._undo.forget()

    def close(self) -> None:
        """Wait for all ranks and end together."""
        self._deepspeed.destroy()
        leave_together()


def load_model(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load named tensors. Raises a UserError that lists those that are missing, unknown or of another shape."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            f"the checkpoint does not fit the model: {shown}",
            fix="use the configuration that the checkpoint was made with",
        )
    module.load_state_dict(dict(tensors))


def _mean(name: str, values: list[Tensor]) -> Tensor:
    """Return the mean of a value over micro-batches. NaN is ignored only for `LABEL_METRICS`: a NaN loss stays NaN."""
    if len(values) == 1:
        return values[0]  # a mean of each value would cost two to six kernels
    return (torch.nanmean if name in LABEL_METRICS else torch.mean)(torch.stack(values))


def _broadcast_buffers(module: nn.Module) -> None:
    """Broadcast the buffers of rank 0. DeepSpeed itself broadcasts only parameters at the start."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def step_seed(*parts: int) -> int:
    """Return a seed computed from (seed, step, micro-batch, rank). No state of a generator needs to be saved."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
