"""The encoder of FlowNet's "correlation" network (Dosovitskiy et al. 2015, Figure 2; 001, Figure 8).

Legend: N current frames · K = 1 or N key frames · (H, W) pixels of the half-resolution images
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.flownet import PairEncoder, conv
from keywarp.ops.correlation import correlation


class CorrelationEncoder(PairEncoder):
    """The same three convolutions on each image, their correlation, and FlowNet's further convolutions.

    The correlation reaches `displacement` cells of stride 8 to every side, in steps of `stride`: in the paper 20 in
    steps of two, which is 441 maps, mean over the channels, with the activation that the authors' code gives them. The
    key's three convolutions are computed once for all frames. width: of all others, in the paper's widths.
    """

    def __init__(self, width: float = 1.0, displacement: int = 20, stride: int = 2) -> None:
        super().__init__()
        c = [round(n * width) for n in (64, 128, 256, 512, 512, 1024, 32)]
        self.displacement, self.stride = displacement, stride
        self.fine = nn.Sequential(conv(3, c[0], 7, stride=2), conv(c[0], c[1], 5, stride=2))  # conv1, conv2
        self.tower = conv(c[1], c[2], 5, stride=2)  # conv3
        self.redirect = conv(c[2], c[6], 1)  # conv_redir
        side = 2 * (displacement // stride) + 1
        self.join = conv(c[6] + side**2, c[2], 3)  # conv3_1
        self.levels = nn.ModuleList(nn.Sequential(conv(a, b, 3, stride=2), conv(b, b, 3)) for a, b in pairwise(c[2:6]))
        self.widths = tuple(c[1:6])

    def key(self, image: Tensor) -> Tensor:
        """The key's third map, `[K, C, H/8, W/8]`."""
        return self.tower(self.fine(image))

    def pair(self, image: Tensor, key: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        own = self.tower(fine)
        related = F.leaky_relu(correlation(own, key, displacement=self.displacement, stride=self.stride), 0.1)
        maps = [fine, self.join(torch.cat([self.redirect(own), related], dim=1))]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps
