"""A network whose parameters are of every role that an optimizer knows."""

from torch import nn


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.backbone.transformer = nn.Linear(4, 4, bias=False)
        self.momentum_backbone = nn.Linear(2, 2).requires_grad_(False)
        self.transformer_encoder = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 10)
