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


def published(method: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    """A whole checkpoint of All4One's authors or of solo-learn. Its optimizer numbers the parameters."""
    names = {
        "momentum.backbone": "momentum_backbone",
        "momentum.projector": "momentum_projector",
        "neighbor_predictor": "predictor",
        "centroid_predictor": "predictor2",
        "transformer.layers": "transformer_encoder.layers",
        "queue.rows": "queue",
        "queue.labels": "queue_y",
        "queue.ids": "queue_index",
        "queue.head": "queue_ptr",
    }

    def theirs(name: str) -> str:
        prefix = next((p for p in names if name.startswith(p)), "")
        return names.get(prefix, "") + name.removeprefix(prefix)

    tensors = {theirs(name): value for name, value in method.state_dict().items()}
    if "queue_ptr" in tensors:
        tensors["queue_ptr"] = tensors["queue_ptr"][None]
    if method.momentum is None:
        tensors.pop("queue_index", None)  # NNCLR's queue has no ids
    tensors["pos_enc.penc.penc.inv_freq"] = torch.rand(3)
    tensors["pos_enc.penc.penc.cached_penc"] = torch.rand(2, 8, 5)
    parameters = {theirs(name): p for name, p in method.named_parameters() if p.requires_grad}
    networks = ("backbone", "classifier", "projector", "predictor", "predictor2", "transformer_encoder")
    state, groups = {}, []
    for network in networks:
        own = [p for name, p in parameters.items() if name.startswith(f"{network}.")]
        groups += [{"lr": 0.1, "params": list(range(len(state), len(state) + len(own)))}] if own else []
        for parameter in own:
            state[len(state)] = {"momentum_buffer": optimizer.state[parameter]["momentum_buffer"]}
    return {
        "epoch": 3,
        "global_step": step,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": OrderedDict(tensors),
        "optimizer_states": [{"state": state, "param_groups": groups}],
    }
