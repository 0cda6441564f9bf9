"""DeepSpeed behind five verbs: step, state, load_state, gradient norm, close.

Settings that DeepSpeed would otherwise choose by itself are written out here, each for a measured reason.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_pipelines.errors import UserError
from data_pipelines.feed import Batch
from trainer.methods import Method
from trainer.optim import Schedule, load_optimizer_tensors, optimizer_tensors
from trainer.parallel import rank, world_size


def deepspeed_config(micro_batch: int, accumulation: int, clip_gradients: float) -> dict[str, Any]:
    """DeepSpeed's configuration for ZeRO stage 0 with an optimizer of our own."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_gradients,  # absent, it would be 1.0
        "zero_optimization": {"stage": 0},
        # Its autocast section is a global of the module and outlives the engine: autocast lives in the method.
        "torch_autocast": {"enabled": False},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


class Engine:
    """One method trained by DeepSpeed over all processes.

    Args:
        method: the module on its device, the same on every rank up to buffers.
        optimizer: over the method's trainable parameters.
        schedule: learning rates by step.
        micro_batch: rows of one forward pass on this rank.
        accumulation: forward passes of one step.
        clip_gradients: largest global gradient norm; 0: not clipped.
        seed: of what is drawn within a step (dropout).
        total_steps: steps of the whole run, for the momentum's cosine.
    """

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer, schedule: Schedule, *,
        micro_batch: int, accumulation: int, clip_gradients: float, seed: int, total_steps: int,
    ) -> None:  # fmt: skip
        self.method, self.optimizer, self.schedule = method, optimizer, schedule
        self.accumulation, self.seed, self.total_steps = accumulation, seed, total_steps
        self._parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self._deepspeed = _initialize(
            method, optimizer, deepspeed_config(micro_batch, accumulation, clip_gradients)
        )
        _broadcast_buffers(method)
        method.to(memory_format=torch.channels_last)  # not earlier: DeepSpeed cannot broadcast such weights

    def step(self, step: int, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Optimiser step number `step` (from 0) on `accumulation` micro-batches.

        Returns this rank's losses and health values, means over the micro-batches, as scalars on the device, and
        `gradient_norm` before clipping.
        """
        self.method.train()
        self.schedule.apply(self.optimizer, step)
        collected: list[Mapping[str, Tensor]] = []
        for index, batch in enumerate(batches):
            torch.manual_seed(_step_seed(self.seed, step, index, rank()))
            out = self._deepspeed(batch.views, batch.labels, batch.ids)
            self._deepspeed.backward(out.loss)
            self.method.after_backward()
            collected.append(out.parts)
            if index == self.accumulation - 1:
                norm = self.gradient_norm()
            self._deepspeed.step()
        self.method.after_step(step + 1, self.total_steps)
        parts = {name: torch.stack([p[name].float() for p in collected]).mean() for name in collected[0]}
        return {**parts, "gradient_norm": norm}

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients, already averaged over the ranks."""
        return nn.utils.get_total_norm([p.grad for p in self._parameters.values() if p.grad is not None])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named full tensors of the model (weights, momentum copies, buffers, queue) and of the optimiser."""
        return dict(self.method.state_dict()), optimizer_tensors(self.optimizer, self._parameters.items())

    def load_state(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, from a run of any number of processes.

        Raises:
            UserError: where names or shapes differ.
        """
        load_model(self.method, model)
        load_optimizer_tensors(self.optimizer, self._parameters.items(), dict(optimizer))

    def close(self) -> None:
        """Let all ranks end together: one that leaves early would abort the others' last collective."""
        self._deepspeed.destroy()
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def load_model(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load named tensors exactly; a UserError names what is missing, unknown or of another shape."""
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
            f"the checkpoint does not fit the model: {shown}", fix="use the configuration it was made with"
        )
    module.load_state_dict(dict(tensors))


def _initialize(method: Method, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    device = next(method.parameters()).device
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if next(method.parameters()).dtype == torch.float64:
        # DeepSpeed reduces the types of a list that lacks float64, and every backend can
        accelerator = get_accelerator()
        types = [*accelerator.supported_dtypes(), torch.float64]
        accelerator.supported_dtypes = lambda: types
    engine, *_ = deepspeed.initialize(
        model=method, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine


def _broadcast_buffers(module: nn.Module) -> None:
    """DeepSpeed broadcasts parameters at the start, and no buffers."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def _step_seed(*parts: int) -> int:
    """A seed that is a function of (seed, step, micro-batch, rank), so that no generator's state needs saving."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
