"""What the tests of all4one switches share."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from trainer.contrast.queue import QueueSettings
from trainer.methods.all4one import All4One, All4OneSettings
from trainer.networks.backbones import Backbone

ROWS = 8  # of the global batch


ONLY_NEIGHBOR = {"centroid_weight": 0, "feature_weight": 0}


ONLY_CENTROID = {"neighbor_weight": 0, "feature_weight": 0}


ONLY_FEATURE = {"neighbor_weight": 0, "centroid_weight": 0}


ONE_WAY = {"symmetric": False}


SWITCHES: dict[str, tuple[dict[str, Any], int]] = {
    "published": ({}, 0),
    "weights": ({"neighbor_weight": 0.3, "centroid_weight": 0.7, "feature_weight": 1.1}, 0),
    "no neighbor": ({"neighbor_weight": 0}, 0),
    "no centroid": ({"centroid_weight": 0}, 0),
    "no feature": ({"feature_weight": 0}, 0),
    "only neighbor": (ONLY_NEIGHBOR, 0),
    "only centroid": (ONLY_CENTROID, 0),
    "only feature": (ONLY_FEATURE, 0),
    "one neighbor": ({"num_neighbors": 1}, 0),
    "three neighbors": ({"num_neighbors": 3}, 0),
    "shallow": ({"transformer_depth": 1, "transformer_heads": 2}, 0),
    "no positions": ({"positional_encoding": "none"}, 0),
    "positions of the paper": ({"positional_encoding": "sequence_axis"}, 0),
    "small embedding": ({"embedding_dim": 4}, 0),
    "both views enter": ({"queue_views": "both"}, 0),
    "features of a rank": ({"feature_scope": "rank"}, 0),
    "soft neighbors": ({"neighbor_softness": 0.3}, 0),
    "soft neighbors, no centroid": ({"neighbor_softness": 0.1, "centroid_weight": 0}, 2),
    "one way, soft neighbors": (ONE_WAY | {"neighbor_softness": 0.3}, 0),
    "attention pooling": ({"centroid_pooling": "attention"}, 0),
    "attention pooling, small views": (
        {"centroid_pooling": "attention", "positional_encoding": "none", "num_neighbors": 3},
        2,
    ),
    "drawn k": ({"min_neighbors": 1}, 0),
    "drawn k of four or five, the paper's positions": (
        {"min_neighbors": 4, "positional_encoding": "sequence_axis", "neighbor_softness": 0.3},
        0,
    ),
    "drawn k, attention pooling, small views": ({"min_neighbors": 2, "centroid_pooling": "attention"}, 2),
    "one way, drawn k, shallow": (ONE_WAY | {"min_neighbors": 1, "transformer_depth": 1}, 0),
    "encoder space": ({"neighbor_space": "encoder"}, 0),
    "encoder space, soft neighbors, both views enter": (
        {"neighbor_space": "encoder", "neighbor_softness": 0.3, "queue_views": "both"},
        2,
    ),
    "one way, only neighbor, encoder space": (ONE_WAY | ONLY_NEIGHBOR | {"neighbor_space": "encoder"}, 0),
    "encoder space that nothing searches": (ONLY_FEATURE | {"neighbor_space": "encoder"}, 0),
    "refreshed queue": ({"queue_refresh": 0.3}, 0),
    "refreshed queue, encoder space, both views enter": (
        {"queue_refresh": 1.0, "neighbor_space": "encoder", "queue_views": "both"},
        0,
    ),
    "one way, only neighbor, refreshed queue": (ONE_WAY | ONLY_NEIGHBOR | {"queue_refresh": 0.5}, 0),
    "one way": (ONE_WAY, 0),
    "one way, only neighbor": (ONE_WAY | ONLY_NEIGHBOR, 0),
    "one way, only neighbor, both views enter": (ONE_WAY | ONLY_NEIGHBOR | {"queue_views": "both"}, 0),
    "one way, only centroid": (ONE_WAY | ONLY_CENTROID, 0),
    "one way, only feature": (ONE_WAY | ONLY_FEATURE, 0),
    "small views": ({}, 3),
    "small views, no centroid": ({"centroid_weight": 0}, 2),
    "small views, one way": (ONE_WAY, 3),
}
"""Settings that differ from the published ones, and small views."""


def settings_of(name: str) -> All4OneSettings:
    sizes = {"projector_hidden": 16, "predictor_hidden": 16, "embedding_dim": 8, "transformer_heads": 4}
    shared = {"transformer_dropout": 0, "feature_scope": "global", "queue": QueueSettings(size=50)}
    return All4OneSettings(**sizes | shared | SWITCHES[name][0])


def make(name: str) -> All4One:
    """The method in float64, with a momentum copy that has gone another way than what it follows."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Tanh()
    )
    network.feature_dim = 10
    method = settings_of(name).build(cast(Backbone, network), 0).double()
    with torch.no_grad():
        for parameter in method.momentum.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def images(name: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [4, 4] + [2] * SWITCHES[name][1]
    return [torch.randn(ROWS, 3, s, s, generator=generator, dtype=torch.float64) for s in sizes]
