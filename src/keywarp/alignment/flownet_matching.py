"""A small encoder that matches cells by itself, for flow networks that are trained on a CPU.

FlowNet learns from a hundred thousand steps where to look for what a cell shows (Dosovitskiy et al. 2015). Here the
best match is computed, as the mean displacement under a softmax of the correlation (Kendall et al. 2017, "soft
argmin"), and only the features that are matched, and what to make of it, are left to be learnt.
Legend: N current frames · K = 1 or N key frames · (H, W) pixels of the half-resolution images · r the reach ·
D = 2r + 1
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.flownet import PairEncoder, conv
from keywarp.ops.correlation import correlation

SHARPNESS = 5.0
"""Of the softmax over cosines times 3, at the start."""


class MatchingEncoder(PairEncoder):
    """Two convolutions on each image, their matches, and FlowNet's further convolutions, all narrow.

    reach: r, how many cells of stride 4 (8 pixels of the whole image) a match may lie away along x or y. The key's
    convolutions are computed once for all frames.
    """

    def __init__(self, width: int = 16, reach: int = 8) -> None:
        super().__init__()
        widths = (2 * width + 3, 3 * width, 4 * width, 4 * width, 8 * width)
        self.reach = reach
        self.fine = nn.Sequential(conv(3, width, 7, stride=2), conv(width, 2 * width, 5, stride=2))
        self.redirect = conv(2 * width, width // 2, 1)
        self.join = conv(width // 2 + (2 * reach + 1) ** 2, 2 * width, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        steps = 4 * torch.arange(-reach, reach + 1) / reach  # from −4 to 4: as large as other maps
        self.displacements: Tensor
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy")).flatten(1)  # [2, D²], dx fast
        self.register_buffer("displacements", grid, persistent=False)
        self.levels = nn.ModuleList(nn.Sequential(conv(a, b, 3, stride=2), conv(b, b, 3)) for a, b in pairwise(widths))
        self.widths = widths

    def key(self, image: Tensor) -> Tensor:
        """The key's features to match, `[K, C, H/4, W/4]`."""
        return distinct(self.fine(image))

    def pair(self, image: Tensor, key: Tensor) -> list[Tensor]:
        own = self.fine(image)
        related = correlation(distinct(own), key, displacement=self.reach)  # [N, D², H/4, W/4]
        shares = (self.sharpness * related).softmax(dim=1)
        expected = torch.einsum("nkhw,ck->nchw", shares, self.displacements)
        known = self.join(torch.cat([self.redirect(own), F.leaky_relu(related, 0.1)], dim=1))
        maps = [torch.cat([known, expected, shares.amax(dim=1, keepdim=True)], dim=1)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps


def distinct(x: Tensor) -> Tensor:
    """Maps `[N, C, h, w]` less their mean over the cells, every cell's features of length √(3 C): the mean over C of
    their products is three times the cosine."""
    return F.normalize(x - x.mean(dim=(2, 3), keepdim=True), dim=1, eps=1e-3) * (3 * x.shape[1]) ** 0.5
