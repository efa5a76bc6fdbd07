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

    The correlation reaches 20 cells of stride 8 to every side, in steps of two: 441 maps, mean over the channels, with
    the activation that the authors' code gives them. The key's three convolutions are computed once for all frames.
    """

    DISPLACEMENT, STRIDE = 20, 2

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 64, 7, stride=2), conv(64, 128, 5, stride=2))  # conv1, conv2
        self.tower = conv(128, 256, 5, stride=2)  # conv3
        self.redirect = conv(256, 32, 1)  # conv_redir
        side = 2 * (self.DISPLACEMENT // self.STRIDE) + 1
        self.join = conv(32 + side**2, 256, 3)  # conv3_1
        self.levels = nn.ModuleList(
            nn.Sequential(conv(a, b, 3, stride=2), conv(b, b, 3)) for a, b in pairwise((256, 512, 512, 1024))
        )
        self.widths = (128, 256, 512, 512, 1024)

    def key(self, image: Tensor) -> Tensor:
        """The key's third map, `[K, 256, H/8, W/8]`."""
        return self.tower(self.fine(image))

    def pair(self, image: Tensor, key: Tensor) -> list[Tensor]:
        fine = self.fine(image)
        own = self.tower(fine)
        related = F.leaky_relu(correlation(own, key, displacement=self.DISPLACEMENT, stride=self.STRIDE), 0.1)
        maps = [fine, self.join(torch.cat([self.redirect(own), related], dim=1))]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps
