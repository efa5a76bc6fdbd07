"""Joins feature maps of several frames, position by position.

Legend: K candidates · N frames · C channels · (h, w) feature cells
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keywarp.structures import Features


class Aggregator(nn.Module, ABC):
    """The sum of K candidates, weighted at each position by a softmax over their scores.

    A candidate is one map `[N, C, h, w]`, and behind it what `describe` may have added before it was carried here.
    """

    def forward(self, candidates: Sequence[Features], current: Features) -> Features:
        """One map `[N, C, h, w]`. candidates: aligned with the current frame, which may be one of them."""
        weights = self.scores(candidates, current).softmax(dim=0)  # [K, N, 1, h, w]
        total = weights[0] * candidates[0][0]
        for weight, candidate in zip(weights[1:], candidates[1:], strict=True):
            total = torch.addcmul(total, weight, candidate[0])
        return (total,)

    @abstractmethod
    def scores(self, candidates: Sequence[Features], current: Features) -> Tensor:
        """`[K, N, 1, h, w]`, before the softmax."""

    def describe(self, features: Features) -> Features:
        """The features of a frame, with what the scores need of it alone and may be computed before it is carried."""
        return features


class CosineAggregator(Aggregator):
    """Scores: cosine similarity of embeddings to the current frame's (FGFA; 001, Eq. 3).

    channels: C. embedding: channels of the three convolutions 1×1, 3×3, 1×1. before_warp: at inference a frame's
    embedding is computed once and carried like its features, as FGFA's authors do; in training, and otherwise, it is
    computed of the carried features, as the papers say. The two differ by what the convolutions make of the warp.
    """

    def __init__(
        self, channels: int, embedding: tuple[int, int, int] = (512, 512, 2048), before_warp: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(channels, embedding[0], 1),
            nn.ReLU(),
            nn.Conv2d(embedding[0], embedding[1], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(embedding[1], embedding[2], 1),
        )
        for module in self.embed:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.before_warp = before_warp

    def scores(self, candidates: Sequence[Features], current: Features) -> Tensor:
        target = self._embedding(current)
        # The current frame as a candidate of its own is not embedded twice.
        embedded = [target if c[0] is current[0] else self._embedding(c) for c in candidates]
        return torch.stack([_cosine(e, target) for e in embedded])  # Eq. 3

    def describe(self, features: Features) -> Features:
        return (*features, self.embed(features[0])) if self.before_warp and not self.training else features

    def _embedding(self, features: Features) -> Tensor:
        """`[N, E, h, w]`, of the features unless it came along."""
        return features[1] if len(features) > 1 else self.embed(features[0])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two maps at each position, `[N, 1, h, w]`."""
    a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)  # channels-last maps are read once, without a copy
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (torch.linalg.vecdot(a, b) / lengths.clamp(min=1e-10))[:, None]


class QualityAggregator(Aggregator):
    """Scores: each candidate's own quality, by a tiny network (003, section 3.3). It does not see the current frame.

    Its last layer has no bias, which the softmax over the candidates would take out again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.quality = nn.Sequential(
            nn.Conv2d(channels, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1, bias=False),
        )
        _small_weights(self)

    def scores(self, candidates: Sequence[Features], current: Features) -> Tensor:
        return torch.stack([self.quality(c[0]) for c in candidates])


class JointQualityAggregator(Aggregator):
    """Scores of two candidates, from both side by side: PSLA's Update Net and Quality Net (002, Figure 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.quality = nn.Sequential(
            nn.Conv2d(2 * channels, 256, 1),
            nn.ReLU(),
            nn.Conv2d(256, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 2, 3, padding=1),
        )
        _small_weights(self)

    def scores(self, candidates: Sequence[Features], current: Features) -> Tensor:
        carried, own = candidates
        return self.quality(torch.cat([carried[0], own[0]], dim=1)).transpose(0, 1)[:, :, None]


class EqualAggregator(Aggregator):
    """Equal weights (003, method (c))."""

    def scores(self, candidates: Sequence[Features], current: Features) -> Tensor:
        x = current[0]
        return x.new_zeros(len(candidates), x.shape[0], 1, *x.shape[2:])


def _small_weights(module: nn.Module) -> None:
    """The start of the new layers, which the papers leave out: the weights are equal then, within a percent."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
