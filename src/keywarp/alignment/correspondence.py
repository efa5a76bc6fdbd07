"""Which cell of a reference each cell of a frame comes from.

Legend: N frames · K = 1 or N references · C channels · (h, w) cells · L levels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from keywarp.ops import resize_flow, warp
from keywarp.structures import Features, Frame, Memory


class Correspondence(ABC):
    """Carries feature maps of a reference to N frames.

    quality: `[N, 1, h, w]`, high where the alignment can be trusted, or None.
    fallback: for each of the N frames the share of cells whose codec motion was missing; empty without codec motion.
    """

    quality: Tensor | None
    fallback: tuple[float, ...]

    @abstractmethod
    def propagate(self, features: Features) -> Features:
        """Features L × `[K, C, h, w]` of the reference, as features L × `[N, C, h, w]` of the frames."""

    @abstractmethod
    def first(self, count: int) -> Self:
        """Only of the first `count` of the N frames."""


@dataclass(frozen=True)
class FlowField(Correspondence):
    """A flow field, and a scale field if the aligner has one (004, Eq. 3).

    flow: `[N, 2, h, w]`, (dx, dy) in cells of its own grid, from the current frame to the reference; a level of
    another size gets it resized. scale: `[N, C, h, w]`, multiplies the warped features (single-level features only).
    """

    flow: Tensor
    scale: Tensor | None = None
    quality: Tensor | None = None
    fallback: tuple[float, ...] = ()

    def propagate(self, features: Features) -> Features:
        warped = tuple(warp(level, resize_flow(self.flow, level.shape[-2:])) for level in features)
        if self.scale is None:
            return warped
        (level,) = warped
        return (level * self.scale,)

    def first(self, count: int) -> FlowField:
        scale = None if self.scale is None else self.scale[:count]
        quality = None if self.quality is None else self.quality[:count]
        return FlowField(self.flow[:count], scale, quality, self.fallback[:count])


class Aligner(nn.Module, ABC):
    """Estimates how N current frames relate to a reference."""

    @abstractmethod
    def forward(self, reference: Memory, current: Frame) -> Correspondence:
        """The correspondence from each current frame to the reference (one for all, or one each)."""

    def remember(self, frame: Frame) -> Any:
        """What of a reference frame alone later calls can reuse, kept in `Memory.work`.

        An aligner that looks at features finds those that will be propagated in `frame.features`.
        """
        return None
