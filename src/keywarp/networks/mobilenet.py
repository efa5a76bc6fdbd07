"""MobileNetV2 (Sandler et al. 2018) as a light feature network at stride 16, for small detectors.

Legend: N images · C channels · (H, W) pixels · (h, w) cells of 16 × 16 pixels
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from keywarp.errors import UserError
from keywarp.interfaces import FeatureNetwork
from keywarp.networks.pretrained import load_backbone
from keywarp.networks.resnet import IMAGENET, BatchNorm2d
from keywarp.structures import Features

STRIDE_8, STRIDE_16, LAST = 4, 7, 14
"""The blocks that the stages begin with; the last stage would have stride 32."""
LAYERS, OUTPUTS = 18, 320
"""Layers of torchvision's `features` that are used, and the channels of the last of them."""


class MobileNetV2(FeatureNetwork):
    """MobileNetV2 with stride 16 and a reduction to `channels`; parameter names are torchvision's.

    As in our ResNet, the last stage keeps its resolution: its depthwise 3×3s have stride 1 and dilation 2, and a 3×3
    with ReLU follows. That reads the 320 channels of the last block: the 1×1 to 1,280 channels behind it was made for
    classifying, and with it the reduction alone would cost more than everything before it. For the same reason
    `channels` is 256; 1,024, as of the papers' networks, would cost more than the backbone. It has dilation 2, not 6,
    which on small images would look past the objects, and a norm (of groups of 8 channels, so that it may follow frozen
    batch norms and few images): the last block ends without a non-linearity and its channels differ much in size, which
    slows learning down. Weights lie channels last, for which CPUs compute depthwise convolutions faster.
    imagenet_weights: "DEFAULT" or another torchvision name, or a file; as of `load_backbone`.
    """

    architecture = "mobilenet_v2"
    mean: Tensor
    std: Tensor

    def __init__(self, *, channels: int = 256, imagenet_weights: str | Path | None = None) -> None:
        if channels < 8 or channels % 8:
            raise UserError(f"channels must be a multiple of 8, the size of a norm's group, got {channels}")
        super().__init__()
        mean, std = IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.features: nn.Sequential = mobilenet_v2(norm_layer=BatchNorm2d).features[:LAYERS]
        for module in self.features[LAST:].modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.stride, module.dilation, module.padding = (1, 1), (2, 2), (2, 2)
        reduction = nn.Conv2d(OUTPUTS, channels, 3, padding=2, dilation=2, bias=False)
        nn.init.kaiming_normal_(reduction.weight, mode="fan_out", nonlinearity="relu")
        self.reduction = nn.Sequential(reduction, nn.GroupNorm(channels // 8, channels), nn.ReLU())
        self.channels = channels
        self.low_channels = 96
        self.to(memory_format=torch.channels_last)
        if imagenet_weights is not None:
            load_backbone(self, imagenet_weights)

    def forward(self, image: Tensor) -> Features:
        """One level `[N, channels, ceil(H/16), ceil(W/16)]` of images `[N, 3, H, W]`, RGB 0…255."""
        return (self.reduction(self.features(self.normalised(image))).contiguous(),)

    def low(self, image: Tensor) -> Features:
        """One level `[N, 96, h, w]`, on the same cells: what the last stage reads."""
        return (self.features[:LAST](self.normalised(image)).contiguous(),)

    def normalised(self, image: Tensor) -> Tensor:
        """The image as the first convolution reads it."""
        return (image.to(self.mean.dtype) - self.mean) / self.std

    @property
    def stages(self) -> list[nn.Module]:
        """By stride: 2 (the stem and the block at its resolution), 4, 8, 16, and the dilated last one."""
        bounds = (0, 2, STRIDE_8, STRIDE_16, LAST, LAYERS)
        return [self.features[start:end] for start, end in pairwise(bounds)]
