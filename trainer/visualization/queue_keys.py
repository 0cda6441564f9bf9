"""The networks that make the keys of a run's queue, as a checkpoint holds them."""

import torch
from torch import nn

from data_pipelines.errors import UserError
from trainer.config import Config
from trainer.methods import Method
from trainer.setup import build_method


def method_to_look_at(config: Config, num_classes: int) -> Method:
    """A run's method with weights that are to be loaded, in evaluation mode, on the GPU if there is one."""
    # none of these changes what a network makes of an image in evaluation mode
    parallel = config.parallel.model_copy(update={"compile": False, "batch_norm": "rank"})
    alike = config.model_copy(update={"parallel": parallel, "backbone": config.backbone.drawn()})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_method(alike, num_classes, device).to(memory_format=torch.channels_last).eval()


def key_encoder(method: Method) -> nn.Module:
    """Images [B, 3, S, S] to keys [B, D], not normalised: the averaged backbone and projector, or the trained ones of a
    method that has no averaged copy.

    Raises:
        UserError: a method of the user's own whose projector has another name.
    """
    networks: nn.Module = method if method.momentum is None else method.momentum
    try:
        return nn.Sequential(networks.get_submodule("backbone"), networks.get_submodule("projector"))
    except AttributeError:
        raise UserError(
            "it is not known what makes the keys of this method's queue", where=type(method).__name__,
            fix="name the network between backbone and queue `projector`",
        ) from None  # fmt: skip
