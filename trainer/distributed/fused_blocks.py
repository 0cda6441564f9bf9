"""torchvision's ResNets with ReLU and the sums of their blocks inside of the kernels of batch norm.

The result of a block goes to two layers: the first convolution of the next block and its shortcut. Blocks therefore
pass on a pair of the same result, one for each. Autograd then brings both gradients to the last batch norm, which adds
them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

Pair = tuple[Tensor, Tensor]
"""One result [B, C, H, W] twice: for the convolution and for the shortcut of the next block."""


class FusedBasicBlock(BasicBlock):
    """torchvision's block, whose batch norms apply ReLU and add the shortcut. The last one also normalizes it."""

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        """See torchvision's block. For a pair it returns a pair."""
        main, shortcut = x if isinstance(x, tuple) else (x, x)
        residual, norm = _residual(self, shortcut)
        inner = self.bn1(self.conv1(main))
        out: Pair = self.bn2.normalized_sum(self.conv2(inner), residual, norm)
        return out if isinstance(x, tuple) else out[0]


class FusedBottleneck(Bottleneck):
    """torchvision's block, whose batch norms apply ReLU and add the shortcut. The last one also normalizes it."""

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        """See torchvision's block. For a pair it returns a pair."""
        main, shortcut = x if isinstance(x, tuple) else (x, x)
        residual, norm = _residual(self, shortcut)
        inner = self.bn2(self.conv2(self.bn1(self.conv1(main))))
        out: Pair = self.bn3.normalized_sum(self.conv3(inner), residual, norm)
        return out if isinstance(x, tuple) else out[0]


class FusedResNet(ResNet):
    """torchvision's network, which passes pairs through its stages. Hooks of stages and blocks see pairs.

    Other code may call a stage or a block with a tensor, and gets a tensor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See torchvision's network."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        pair = (x, x)
        del x  # without gradients, each activation is freed after its last use
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            pair = stage(pair)
        out: Tensor = self.fc(torch.flatten(self.avgpool(pair[0]), 1))
        return out


def _residual(block: BasicBlock | Bottleneck, shortcut: Tensor) -> tuple[Tensor, Any]:
    """Return what the last batch norm of a block adds, and the batch norm that it applies to that, or None."""
    layers = block.downsample
    if layers is None:
        return shortcut, None
    # Another network with blocks of torchvision may have other shortcuts than torchvision's own.
    if not isinstance(layers, nn.Sequential) or type(layers[-1]) is not type(block.bn1):
        return layers(shortcut), None
    norm: Any
    *front, norm = layers
    if not norm.has_kernels(shortcut):
        return layers(shortcut), None  # which frees what it normalizes
    for layer in front:
        shortcut = layer(shortcut)
    return shortcut, norm


def fuse_activations(network: nn.Module) -> None:
    """Let the batch norms of torchvision's ResNets apply the ReLU and the sum that follow them.

    Each of these operations alone reads and writes the whole activation. The same holds for the sum of the gradients of
    a block's result, which the batch norm adds too. Names in `state_dict` stay the same.

    Args:
        network: changed in place. Its batch norms are of the type `CrossRankBatchNorm`.
    """
    module: Any
    for module in network.modules():
        if type(module) is BasicBlock:
            module.bn1.activated = True
            module.__class__ = FusedBasicBlock
        elif type(module) is Bottleneck:
            module.bn1.activated = module.bn2.activated = True
            module.__class__ = FusedBottleneck
        elif type(module) is ResNet:
            module.bn1.activated, module.relu = True, nn.Identity()
            module.__class__ = FusedResNet
