"""torchvision's ResNets with ReLU and the sums of their blocks inside of the kernels of batch norm."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class FusedBasicBlock(BasicBlock):
    """torchvision's block, whose batch norms apply ReLU and add the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """See torchvision's block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = self.bn1(self.conv1(x))
        out: Tensor = self.bn2(self.conv2(inner), shortcut)
        return out


class FusedBottleneck(Bottleneck):
    """torchvision's block, whose batch norms apply ReLU and add the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """See torchvision's block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out: Tensor = self.bn3(self.conv3(inner), shortcut)
        return out


def fuse_activations(network: nn.Module) -> None:
    """Let the batch norms of torchvision's ResNets apply the ReLU and the sum that follow them.

    Each of these operations alone reads and writes the whole activation. Names in `state_dict` stay the same.

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
