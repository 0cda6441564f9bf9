"""Layout of gradients and optimizer state: replicated on every rank (ZeRO stage 0) or sharded (stages 1 and 2).

Both layouts have the same interface, so the rest of the engine does not depend on the stage. At these stages every
rank has the full weights. Stage 3 is not supported. It would also shard the weights, and these shards are empty between
uses. Averages over empty tensors do nothing, so the EMA encoders would not change.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.distributed.collectives import rank, world_size
from trainer.distributed.deepspeed_internals import (
    flat_shards,
    forget_linked_states,
    parameter_groups,
    shard_gradients,
    shard_offsets,
)
from trainer.distributed.gradient_buckets import GradientBuckets
from trainer.engine.lars import LARS
from trainer.engine.optimizer_state import (
    load_optimizer_tensors,
    mismatch,
    optimizer_tensors,
    state_names,
    states_by_parameter,
)
from trainer.engine.optimizers import role_of
from trainer.engine.partition import Partition


class OptimizerStateLayout(Protocol):
    """Interface of both layouts. Every rank calls each method at the same time."""

    def gradients(self) -> list[Tensor]:
        """Return this rank's part of the averaged gradient after the last micro-batch's backward pass.

        The online classifier's gradient is left out, so that labels do not scale the backbone's gradient. Changes in
        place take effect in the update that follows.
        """

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the Euclidean norm of the full gradient, which is the same on every rank."""

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state as in `optimizer_tensors`. At stages 1 and 2 only rank 0 gets it."""

    def replicated_state(self) -> dict[str, Tensor]:
        """Return the part of the optimizer's state that every rank holds, without a message."""

    def own_shard(self) -> dict[str, Tensor]:
        """Return the optimizer's own tensors that only this rank holds, without a message. Names, types and shapes are
        the same on every rank. Empty at stage 0."""

    def join_shards(self, shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the optimizer's state as in `state` from what `own_shard` was on each rank, by rank. Sends nothing."""

    def take_weights(self) -> None:
        """Use the weights that the model holds, after something else than the optimizer has changed them."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Use the weights that were loaded into the model, and load the optimizer's state, which any stage may have
        saved."""


class ReplicatedState:
    """Layout of stage 0.

    Args:
        optimizer: optimizer of the parameters.
        parameters: trainable parameters by name.
        buckets: average the gradients. None: the gradients are already averages.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        buckets: GradientBuckets | None = None,
    ) -> None:
        self._optimizer, self._parameters, self._buckets = optimizer, parameters, buckets
        self._evaluated = [
            parameter for name, parameter in parameters.items() if role_of(name) != "classifier"
        ]

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all parameters except the classifier's."""
        if self._buckets is not None:
            self._buckets.finish()
        return [p.grad for p in self._evaluated if p.grad is not None]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm, without a message."""
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's own tensors."""
        return optimizer_tensors(self._optimizer, self._parameters.items())

    def replicated_state(self) -> dict[str, Tensor]:
        """Return all of the state."""
        return self.state()

    def own_shard(self) -> dict[str, Tensor]:
        """Return nothing, because every rank holds all of the state."""
        return {}

    def join_shards(self, shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Raise a RuntimeError, because there are no shards."""
        raise RuntimeError("the optimizer's state is not sharded")

    def take_weights(self) -> None:
        """Do nothing, because the optimizer updates the weights of the model."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the optimizer's state. Raises a UserError if it does not fit."""
        load_optimizer_tensors(self._optimizer, self._parameters.items(), tensors)


class ShardedState:
    """Layout of stages 1 and 2: DeepSpeed gives the optimizer one flat shard of each parameter group to update.

    Args:
        zero: DeepSpeed's optimizer, which wraps ours.
        optimizer: our optimizer.
        parameters: trainable parameters by name.
    """

    def __init__(
        self, zero: Any, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self._zero, self._optimizer = zero, optimizer
        names = {parameter: name for name, parameter in parameters.items()}
        self._parameters = parameters
        self._names = [[names[p] for p in group] for group in parameter_groups(zero)]
        self._flat: list[Tensor] = flat_shards(zero)
        self._partitions = [
            Partition([p.shape for p in group], len(flat), rank(), world_size())
            for group, flat in zip(parameter_groups(zero), self._flat, strict=True)
        ]
        for group, partition in zip(parameter_groups(zero), self._partitions, strict=True):
            _require_same_layout(group, partition)
        if isinstance(optimizer, LARS):
            optimizer.partitions = dict(zip(self._flat, self._partitions, strict=True))

    def gradients(self) -> list[Tensor]:
        """Return the gradients of this rank's shards, padding included."""
        return [
            piece
            for group, pieces in shard_gradients(self._zero).items()
            if role_of(self._names[group][0]) != "classifier"
            for piece in pieces
        ]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm. One number is summed over the ranks."""
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        if world_size() > 1:
            dist.all_reduce(square)
        return square.sqrt()

    def state(self) -> dict[str, Tensor]:
        """Gather the shards on rank 0 and move them to its host memory, one group at a time."""
        tensors: dict[str, Tensor] = {}
        for flat, partition, names in zip(self._flat, self._partitions, self._names, strict=True):
            state = self._optimizer.state.get(flat, {})
            for key, kind in state_names(self._optimizer).items():
                value = state.get(key)
                if value is None or key == "step":  # a group's members are updated together
                    whole = [flat.new_empty(0) if value is None else value] * len(names)
                else:
                    whole = [tensor.cpu() for tensor in partition.gather(value)]
                tensors |= {f"{kind}/{name}": t.detach() for name, t in zip(names, whole, strict=False)}
        return tensors if rank() == 0 else {}

    def replicated_state(self) -> dict[str, Tensor]:
        """Return nothing, because each shard is on one rank."""
        return {}

    def own_shard(self) -> dict[str, Tensor]:
        """Return this rank's shards as `GROUP/KEY`, where KEY is that of the optimizer."""
        return {
            f"{group}/{key}": value
            for group, flat in enumerate(self._flat)
            for key, value in self._optimizer.state.get(flat, {}).items()
            if key in state_names(self._optimizer)
        }

    def join_shards(self, shards: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the full tensors, in the host memory where the shards are."""
        tensors: dict[str, Tensor] = {}
        for group, (partition, names) in enumerate(zip(self._partitions, self._names, strict=True)):
            for key, kind in state_names(self._optimizer).items():
                own = [shard.get(f"{group}/{key}") for shard in shards]
                values = [value for value in own if value is not None]
                if not values:
                    whole = [self._flat[group].new_empty(0, device="cpu")] * len(names)
                elif key == "step":
                    whole = values[:1] * len(names)
                else:
                    whole = partition.split(torch.stack(values))
                tensors |= {f"{kind}/{name}": t for name, t in zip(names, whole, strict=True)}
        return tensors

    def take_weights(self) -> None:
        """Copy this rank's part of the model's weights into its shards."""
        self._zero.refresh_fp32_params()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the optimizer's state. Raises a UserError if it does not fit, and then changes nothing."""
        states = states_by_parameter(self._optimizer, self._parameters, tensors)
        loaded: dict[Tensor, dict[str, Tensor]] = {}
        for flat, partition, names in zip(self._flat, self._partitions, self._names, strict=True):
            members = [states.get(name, {}) for name in names]
            if any(members):
                loaded[flat] = {
                    key: _common_step([m.get("step") for m in members], names).to(flat.device)
                    if key == "step"
                    else partition.cut([m.get(key) for m in members], like=flat)
                    for key in state_names(self._optimizer)
                }
        self.take_weights()
        self._optimizer.state.clear()
        self._optimizer.state.update(loaded)
        forget_linked_states(self._zero)


def _require_same_layout(parameters: list[nn.Parameter], partition: Partition) -> None:
    own = {piece.member: piece for piece in partition.layout}
    for member, parameter in enumerate(parameters):
        ours = own.get(member)
        if shard_offsets(parameter) != (None if ours is None else (ours.here.start, ours.there.start)):
            raise RuntimeError("this version of DeepSpeed uses another partition layout")


def _common_step(steps: list[Tensor | None], names: list[str]) -> Tensor:
    """Return the number of updates of a group's members. Raises a UserError if their numbers differ."""
    counts = {0.0 if step is None else float(step) for step in steps}
    if len(counts) > 1:
        raise mismatch(
            f"{names[0]} and other parameters of its group have different numbers of updates. "
            "Sharded optimizer state cannot hold different numbers"
        )
    return torch.tensor(counts.pop())
