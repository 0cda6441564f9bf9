"""Checkpoints of the published implementations as state of a run: weights, queue, EMA encoder and momentum.

All4One's authors and solo-learn (da Costa et al., JMLR 2022) train with Lightning. Its files hold the networks under
`state_dict`, the optimizer's buffers by the number of a parameter, and the number of steps. The EMA momentum and the
learning rates are functions of the step, so nothing else is needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipelines.errors import UserError, first_line
from trainer.methods import Method

METHODS = ("all4one", "nnclr", "barlow_twins")
"""Methods whose published files are known."""
_PREFIXES = {
    "momentum.backbone.": "momentum_backbone.",
    "momentum.projector.": "momentum_projector.",
    "neighbor_predictor.": "predictor.",
    "centroid_predictor.": "predictor2.",
    "transformer.layers.": "transformer_encoder.layers.",
}
_QUEUE = {
    "queue.rows": "queue",
    "queue.labels": "queue_y",
    "queue.ids": "queue_index",
    "queue.head": "queue_ptr",
}
_OPTIMIZED = ("backbone.", "classifier.", "projector.", "predictor.", "predictor2.", "transformer_encoder.")
"""Networks in the order in which the published optimizer numbers their parameters."""
_BACKBONE_ONLY = "to start from its backbone only, set backbone.init to this file and leave --from out"
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class PublishedCheckpoint:
    """The content of a published checkpoint."""

    path: Path
    step: int
    """Number of optimizer steps that are done."""
    tensors: Mapping[str, Tensor]
    """Weights and buffers by their names in the file."""
    momentum: Mapping[str, Tensor]
    """Momentum buffers of the optimizer, by the same names."""

    @classmethod
    def read(cls, path: Path) -> "PublishedCheckpoint":
        """Read a file without running code from it.

        Raises:
            UserError: the file cannot be read, or is not a whole checkpoint of a published method.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # broken bytes make torch raise errors of any kind
            raise UserError(
                f"cannot be read as a checkpoint without running code from it: {first_line(error)}",
                where=path,
                fix="give a run's folder, or a checkpoint that the published code has saved",
            ) from None
        keys = ("state_dict", "optimizer_states", "global_step")
        if lacking := [key for key in keys if not isinstance(content, Mapping) or key not in content]:
            raise UserError(
                f"is not a whole training checkpoint: it lacks {', '.join(lacking)}",
                where=path,
                fix=_BACKBONE_ONLY,
            )
        tensors = {n: t for n, t in content["state_dict"].items() if isinstance(t, Tensor)}
        momentum = dict(_momentum(path, tensors, content["optimizer_states"][0]))
        return cls(path, content["global_step"], tensors, momentum)

    def model_state(self, method: Method, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the state of our method by our names. NNCLR's files have no sample ids, so these are -1.

        Args:
            method: gives the names and shapes. Its values are not used.
            dtype: type of the weights of the run.

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        found, problems = {}, []
        for name, own in method.state_dict().items():
            theirs = self.tensors.get(_published_name(name))
            if theirs is None and name == "queue.ids":
                theirs = torch.full(own.shape, -1)
            if name == "queue.head" and theirs is not None:
                theirs = theirs.reshape(())  # one number in a list there
            if theirs is None:
                problems.append(f"missing {_published_name(name)}")
            elif theirs.shape != own.shape:
                problems.append(
                    f"{_published_name(name)} is {list(theirs.shape)}, expected {list(own.shape)}"
                )
            else:
                found[name] = theirs.to(dtype if theirs.is_floating_point() else theirs.dtype)
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise UserError(
                f"does not fit the recipe: {'; '.join(problems[:5])}{more}",
                where=self.path,
                fix="set method, backbone.name, backbone.width and the sizes of heads and queue to those of the file",
            )
        return found

    def optimizer_state(self, method: Method, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the optimizer's momentum as `momentum/PARAMETER`. A parameter without one has an empty tensor."""
        names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
        none = torch.empty(0)
        return {
            f"momentum/{name}": self.momentum.get(_published_name(name), none).to(dtype) for name in names
        }


def _published_name(name: str) -> str:
    if name in _QUEUE:
        return _QUEUE[name]
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _momentum(
    path: Path, tensors: Mapping[str, Tensor], optimizer: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the momentum of each parameter. The file numbers the parameters in the order of `_OPTIMIZED`."""
    names = [
        name
        for network in _OPTIMIZED
        for name in tensors
        if name.startswith(network) and not name.endswith(_BUFFERS)
    ]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    state = optimizer["state"]
    fits = len(names) == len(numbers) and all(
        number not in state or state[number]["momentum_buffer"].shape == tensors[name].shape
        for name, number in zip(names, numbers, strict=True)
        if number not in state or "momentum_buffer" in state[number]
    )
    if not fits:
        raise UserError(
            f"the optimizer's {len(numbers)} parameters are not the {len(names)} of the networks in their usual order",
            where=path,
            fix=_BACKBONE_ONLY,
        )
    for name, number in zip(names, numbers, strict=True):
        if "momentum_buffer" in state.get(number, {}):
            yield name, state[number]["momentum_buffer"]
