"""ResNet feature networks at stride 16 (004, section 4): conv5 dilated, then a 3×3 that reduces the channels.

Legend: N images · C channels · (H, W) pixels · (h, w) cells of 16 × 16 pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from keywarp.errors import UserError
from keywarp.interfaces import FeatureNetwork
from keywarp.networks.deformable import DeformableConv2d
from keywarp.networks.pretrained import load_backbone
from keywarp.structures import Features

BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
# RGB 0…255: torchvision's weights, and the papers' Caffe-style ones.
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = ((123.15, 115.90, 103.06), (1.0, 1.0, 1.0))
Model = TypeVar("Model", bound=nn.Module)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose running statistics `freeze` can fix: it then stays in evaluation mode."""

    frozen = False

    def train(self, mode: bool = True) -> BatchNorm2d:
        """As of every module, unless frozen."""
        return super().train(mode and not self.frozen)


class ResNet(FeatureNetwork):
    """ResNet with stride 16 and a reduction to `channels`; parameter names are torchvision's.

    depth: 18, 34, 50, 101, or 10 (one block a stage). channels: of the reduction, 3×3 with dilation 6 and ReLU. width:
    channels of the stem. deformable: the last 0, 3 or 6 3×3 convolutions of conv4 and conv5 are deformable (for six,
    the papers do not say where the other three are: we take the last three blocks of conv4). stride_in_1x1: the Caffe
    layout and normalisation of the papers' weights, instead of torchvision's. imagenet_weights: "DEFAULT" or another
    torchvision name, or a file; as of `load_backbone`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        depth: int = 101,
        *,
        channels: int = 1024,
        width: int = 64,
        deformable: int = 0,
        stride_in_1x1: bool = False,
        imagenet_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise UserError(f"depth must be one of {list(BLOCKS)}, got {depth}")
        block, counts = BLOCKS[depth]
        mean, std = CAFFE if stride_in_1x1 else IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, counts[0], stride=1, stride_in_1x1=stride_in_1x1)
        inner = width * block.expansion
        self.layer2 = _stage(block, inner, 2 * width, counts[1], stride=2, stride_in_1x1=stride_in_1x1)
        self.layer3 = _stage(block, 2 * inner, 4 * width, counts[2], stride=2, stride_in_1x1=stride_in_1x1)
        self.layer4 = _stage(block, 4 * inner, 8 * width, counts[3], stride=1, stride_in_1x1=stride_in_1x1)
        _dilate(self.layer4, 2)
        self.reduction: nn.Module = nn.Sequential(nn.Conv2d(8 * inner, channels, 3, padding=6, dilation=6), nn.ReLU())
        self.channels = channels
        self.architecture = f"resnet{depth}"
        self.low_channels = 4 * inner  # of conv4
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        weight, bias = self.reduction.parameters()
        nn.init.normal_(weight, std=0.01)
        nn.init.zeros_(bias)
        if imagenet_weights is not None:
            load_backbone(self, imagenet_weights)
        _deform([self.layer3, self.layer4], deformable)

    def forward(self, image: Tensor) -> Features:
        """One level `[N, channels, ceil(H/16), ceil(W/16)]` of images `[N, 3, H, W]`, RGB 0…255."""
        x = self.layer2(self.layer1(self.stem(image)))
        return (self.reduction(self.layer4(self.layer3(x))),)

    def stem(self, image: Tensor) -> Tensor:
        """What the first stage reads, at stride 4."""
        return self.maxpool(F.relu(self.bn1(self.conv1(self.normalised(image)))))

    def normalised(self, image: Tensor) -> Tensor:
        """The image as the first convolution reads it."""
        return (image.to(self.mean.dtype) - self.mean) / self.std

    def low(self, image: Tensor) -> Features:
        """One level, the output of conv4's fourth block (res4b3 of ResNet-101; 002, section 3.5), on the same cells.

        Of a ResNet with fewer blocks in conv4, the output of its last but one at most.
        """
        x = self.layer2(self.layer1(self.stem(image)))
        return (self.layer3[: self.low_blocks](x),)

    @property
    def low_blocks(self) -> int:
        """Blocks of conv4 that belong to the lower layers."""
        return max(min(4, len(self.layer3) - 1), 1)

    @property
    def stages(self) -> list[nn.Module]:
        """conv1, then conv2_x to conv5_x."""
        stem = nn.ModuleList([self.conv1, self.bn1])
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def split(self, task_layers: int) -> tuple[ResNet, nn.Sequential]:
        """This network without its last blocks, and those blocks with the reduction as the task network's beginning.

        task_layers: 5 (the reduction and conv5's last block), 12 (all of conv5) or 21 (also conv4's last three blocks);
        004, Table 5, which counts the layers of bottlenecks. ResNet-50's and ResNet-101's features then have 2,048,
        1,024 and 1,024 channels.
        """
        counts = {5: 1, 12: len(self.layer4), 21: len(self.layer4) + 3}
        if task_layers not in counts:
            raise UserError(f"task layers must be 0, 1, 5, 12 or 21 (004, Table 5), got {task_layers}")
        blocks, count = [*self.layer3, *self.layer4], counts[task_layers]
        if count >= len(blocks):  # conv4's first block brings the stride to 16
            raise UserError(f"this network is too shallow for {task_layers} task layers; take fewer, or a deeper one")
        kept = blocks[:-count]
        tail = nn.Sequential(*blocks[-count:], self.reduction)
        in_conv4 = min(len(self.layer3), len(kept))
        self.layer3, self.layer4 = nn.Sequential(*kept[:in_conv4]), nn.Sequential(*kept[in_conv4:])
        self.reduction = nn.Identity()
        self.channels = _last_convolution(kept[-1]).out_channels
        return self, tail


def freeze(model: nn.Module, stages: int = 2) -> None:
    """Fix what detectors fix in fine-tuning: every batch norm's statistics, and a feature network's first stages.

    The statistics stay fixed under a later `train()`; the other stages' scales and shifts train on. stages: 2 are
    everything at strides 2 and 4; of a ResNet conv1 and conv2_x, which the authors fix.
    """
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.frozen = True
            module.eval()
        if isinstance(module, FeatureNetwork):
            for stage in module.stages[:stages]:
                stage.requires_grad_(False)


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    planes: int,
    count: int,
    *,
    stride: int,
    stride_in_1x1: bool,
) -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut, norm_layer=BatchNorm2d)
    if stride_in_1x1 and isinstance(first, Bottleneck):
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    rest = (block(outputs, planes, norm_layer=BatchNorm2d) for _ in range(count - 1))
    return nn.Sequential(first, *rest)


def _convolutions_3x3(stages: Sequence[nn.Sequential]) -> list[tuple[nn.Module, str]]:
    """Every 3×3 convolution in order of execution, as (block, attribute)."""
    return [
        (block, name)
        for stage in stages
        for block in stage
        for name in ("conv1", "conv2")
        if getattr(block, name).kernel_size == (3, 3)
    ]


def _dilate(stage: nn.Sequential, dilation: int) -> None:
    for block, name in _convolutions_3x3([stage]):
        conv = getattr(block, name)
        conv.dilation = conv.padding = (dilation, dilation)


def _deform(stages: Sequence[nn.Sequential], count: int) -> None:
    convolutions = _convolutions_3x3(stages)
    if count not in (0, 3, 6) or count > len(convolutions):
        raise UserError(f"deformable must be 0, 3 or 6 of the last {len(convolutions)} 3×3 layers, got {count}")
    for block, name in convolutions[len(convolutions) - count :]:
        setattr(block, name, DeformableConv2d(getattr(block, name)))


def _last_convolution(block: nn.Module) -> nn.Conv2d:
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    assert isinstance(last, nn.Conv2d)
    return last


def for_inference(model: Model) -> Model:
    """The model, ready to run fast: batch norms folded into the convolutions before them, channels-last, eval."""
    model.eval()
    for parent in model.modules():
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d) and isinstance(before, nn.Conv2d):
                _fold(before, child)
                setattr(parent, name, nn.Identity())
            before = child
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)  # type: ignore[arg-type]
