"""What other projects' checkpoints of a backbone hold: names, groups and what stands beside the weights."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def solo_learn(backbone: nn.Module) -> dict[str, Any]:
    """Its `state_dict` holds the averaged network, heads and a classifier beside the backbone."""
    own = backbone.state_dict()
    other = {name: value + 1 for name, value in own.items()}
    tensors = {
        **behind("backbone.", own),
        "classifier.weight": torch.rand(10, 64),
        "classifier.bias": torch.rand(10),
        **behind("momentum_backbone.", other),
        "projector.0.weight": torch.rand(16, 64),
        "projector.1.num_batches_tracked": torch.tensor(3),
    }
    return {
        "epoch": 3,
        "global_step": 70,
        "pytorch-lightning_version": "1.6",
        "state_dict": OrderedDict(tensors),
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.rand(3)}}}],
    }


def lightly(backbone: nn.Module) -> dict[str, Any]:
    """Its backbone is `nn.Sequential(*list(resnet.children())[:-1])`."""
    return {"state_dict": behind("backbone.", nn.Sequential(*list(backbone.children())[:-1]).state_dict())}


def moco(backbone: nn.Module) -> dict[str, Any]:
    """Two networks of one shape, wrapped by DistributedDataParallel."""
    own, nothing = backbone.state_dict(), torch.rand(4, 4)
    other = {name: value + 1 for name, value in own.items()}
    tensors = {
        **behind("module.encoder_q.", own),
        **behind("module.encoder_k.", other),
        "module.queue": nothing,
    }
    return {"epoch": 1, "arch": "resnet18", "state_dict": tensors}
