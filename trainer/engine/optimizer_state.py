"""The state of an optimizer as named full tensors: `KIND/PARAMETER`, for example `momentum/projector.0.weight`."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.engine.lars import LARS
from trainer.engine.sgd import SGD

# Key in each optimizer's state of a parameter → name in a checkpoint.
_STATE_NAMES: dict[type[torch.optim.Optimizer], dict[str, str]] = {
    LARS: {"momentum_buffer": "momentum"},
    SGD: {"momentum_buffer": "momentum"},
    torch.optim.AdamW: {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"},
}


def state_names(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Return the names in a checkpoint, by key in the optimizer's state of a parameter."""
    return _STATE_NAMES[type(optimizer)]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the optimizer's state as `KIND/PARAMETER` → tensor with the parameter's shape.

    The tensors are the optimizer's own, not copies. A parameter without an update so far has an empty tensor.
    """
    tensors = {}
    for name, parameter in _optimized(optimizer, named_parameters):
        state = optimizer.state.get(parameter, {})
        for key, kind in state_names(optimizer).items():
            value = state.get(key)
            tensors[f"{kind}/{name}"] = parameter.new_empty(0) if value is None else value.detach()
    return tensors


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Load the state that `optimizer_tensors` returned into the optimizer. The tensors are copied.

    Raises:
        UserError: as for `states_by_parameter`. Then nothing changes.
    """
    members = dict(_optimized(optimizer, named_parameters))
    loaded: dict[Tensor, dict[str, Tensor]] = {}
    for name, state in states_by_parameter(optimizer, members, tensors).items():
        parameter = members[name]
        loaded[parameter] = {
            key: (
                tensor.detach().to(parameter.device, copy=True)
                if key == "step"
                else torch.empty_like(parameter).copy_(tensor)
            )
            for key, tensor in state.items()
        }
    optimizer.state.clear()
    optimizer.state.update(loaded)


def states_by_parameter(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return a checkpoint's tensors by parameter and key of the optimizer. Parameters without an update are left out.

    Raises:
        UserError: a tensor is missing, has another shape or type, or belongs to no parameter.
    """
    kinds = state_names(optimizer)
    expected = {f"{kind}/{name}" for name in parameters for kind in kinds.values()}
    if missing := sorted(expected - tensors.keys()):
        raise mismatch(f"the optimizer's state lacks {_some(missing)}")
    if unknown := sorted(tensors.keys() - expected):
        raise mismatch(f"the optimizer's state has {_some(unknown)}, which no parameter uses")
    states = {}
    for name, parameter in parameters.items():
        state = {key: tensors[f"{kind}/{name}"] for key, kind in kinds.items()}
        if all(tensor.shape == (0,) for tensor in state.values()):
            continue
        for key, tensor in state.items():
            shape = () if key == "step" else tuple(parameter.shape)
            if tuple(tensor.shape) != shape or (key != "step" and tensor.dtype != parameter.dtype):
                raise mismatch(
                    f"{kinds[key]}/{name} is {tensor.dtype} {list(tensor.shape)}, "
                    f"the parameter needs {parameter.dtype} {list(shape)}"
                )
        states[name] = state
    return states


def _optimized(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> list[tuple[str, Tensor]]:
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [(name, parameter) for name, parameter in named_parameters if id(parameter) in own]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def mismatch(what: str) -> UserError:
    """Return the error for a checkpoint whose optimizer state does not fit. `what` describes the difference."""
    return UserError(
        what,
        where="checkpoint",
        fix="resume with the model and optimizer that wrote the checkpoint, or start a new run",
    )
