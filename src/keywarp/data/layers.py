"""What a synthetic scene is made of: pictures that move, turn, grow and bend, known at every instant.

Legend: T instants · (H, W) pixels of the frame · a sprite is `[h, w, 4]` float32 RGBA, colours 0 … 255 already
multiplied by alpha, alpha 0 … 1 · sprite coordinates (u, v) count from its middle, its longer side is 1 · frame
coordinates (x, y) are pixels, (0, 0) the middle of the upper left one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

__all__ = ["Layer", "Path", "Pose", "Wave", "grid"]

BEND_WAVES = 1.2  # of the bending, along the sprite's longer side


@dataclass(frozen=True)
class Wave:
    """A number that swings smoothly: `base + amplitude · sin(rate · t + phase)`."""

    base: float
    amplitude: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def __call__(self, t: float) -> float:
        return self.base + self.amplitude * float(np.sin(self.rate * t + self.phase))


@dataclass(frozen=True)
class Pose:
    """Where a sprite is at one instant: bent, then mapped by `matrix` `[2, 3]` from sprite to frame coordinates.

    bend: how far the columns and then the rows are shifted against each other, in sprite coordinates. Both shifts can
    be undone exactly and keep areas, so positions, flow and areas are exact.
    """

    matrix: np.ndarray
    bend: tuple[float, float] = (0.0, 0.0)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Frame coordinates `[..., 2]` of points `[..., 2]` of the sprite."""
        u, v = points[..., 0], points[..., 1]
        if any(self.bend):
            v = v - self.bend[1] * _bending(u)
            u = u - self.bend[0] * _bending(v)
        (a, b, x), (c, d, y) = self.matrix
        return np.stack([a * u + b * v + x, c * u + d * v + y], axis=-1)

    def to_sprite(self, points: np.ndarray) -> np.ndarray:
        """Sprite coordinates `[..., 2]` of points `[..., 2]` of the frame: the inverse."""
        a, b, x, c, d, y = cv2.invertAffineTransform(self.matrix).ravel().astype(np.float32)
        across, down = points[..., 0], points[..., 1]
        u, v = a * across + b * down + x, c * across + d * down + y
        if any(self.bend):
            u = u + np.float32(self.bend[0]) * _bending(v)
            v = v + np.float32(self.bend[1]) * _bending(u)
        return np.stack([u, v], axis=-1)

    @property
    def area(self) -> float:
        """Pixels of the frame that a square of side 1 of the sprite covers."""
        return abs(float(np.linalg.det(self.matrix[:, :2])))


def _bending(position: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * BEND_WAVES * position + 0.5)


@dataclass(frozen=True)
class Path:
    """A pose for every instant.

    x, y: of the middle, pixels. size: the logarithm of the longer side in pixels. angle: radians. shear: of the width
    against the height. bends: see Pose. pace: how fast all of this passes; whatever the pace, the pose at instant
    `middle` is the same.
    """

    x: Wave
    y: Wave
    size: Wave
    angle: Wave = Wave(0)
    shear: Wave = Wave(0)
    bends: tuple[Wave, Wave] = (Wave(0), Wave(0))
    pace: float = 1.0
    middle: float = 0.0

    def pose(self, t: float) -> Pose:
        """The pose at instant t, counted in frames."""
        t = self.pace * (t - self.middle)
        side, angle = float(np.exp(self.size(t))), self.angle(t)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = side * turn @ np.array([[1, self.shear(t)], [0, 1]])
        return Pose(np.column_stack([linear, [self.x(t), self.y(t)]]), (self.bends[0](t), self.bends[1](t)))


@dataclass(frozen=True)
class Layer:
    """A sprite on its path.

    label: position in the classes; None for what is not annotated. solid: an opaque sprite that is mirrored beyond its
    edges: a background.
    """

    sprite: np.ndarray
    path: Path
    label: int | None = None
    solid: bool = False
    _outline: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_outline", self._hull())

    def outline(self, t: float) -> np.ndarray:
        """Points `[P, 2]` in the frame around what is drawn at instant t: of its convex hull before it is bent."""
        return self.path.pose(t).to_frame(self._outline)

    def area(self, t: float) -> float:
        """Pixels that it covers at instant t, on screen or off."""
        share = float((self.sprite[..., 3] >= 0.5).sum()) / max(self.sprite.shape) ** 2
        return share * self.path.pose(t).area

    def draw(self, times: Sequence[float], size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """Where in a frame of this size (H, W) it is drawn, rows and columns, and its picture there, `[h, w, 4]`.

        The mean over the instants `times`: several give the blur of its motion.
        """
        place = self._place(times, size)
        points = grid(*place)
        total = np.zeros((*points.shape[:2], 4), np.float32)
        for t in times if points.size else ():
            total += self._sampled(self.path.pose(t).to_sprite(points))
        return place, total / np.float32(len(times))

    def _sampled(self, points: np.ndarray) -> np.ndarray:
        h, w = self.sprite.shape[:2]
        cells = points * np.float32(max(h, w)) + np.array([w / 2 - 0.5, h / 2 - 0.5], np.float32)
        border = cv2.BORDER_REFLECT if self.solid else cv2.BORDER_CONSTANT
        return cv2.remap(self.sprite, cells, None, cv2.INTER_LINEAR, borderMode=border)

    def _place(self, times: Sequence[float], size: tuple[int, int]) -> tuple[slice, slice]:
        if self.solid:
            return slice(0, size[0]), slice(0, size[1])
        ends = np.concatenate([self.outline(t) for t in times])
        slack = 2 + 0.15 * np.ptp(ends, axis=0).max() * any(self.path.pose(times[0]).bend)  # bending bulges edges
        first = np.clip(np.floor(ends.min(0) - slack), 0, size[::-1]).astype(int)
        last = np.clip(np.ceil(ends.max(0) + slack) + 1, first, size[::-1]).astype(int)
        return slice(int(first[1]), int(last[1])), slice(int(first[0]), int(last[0]))

    def _hull(self) -> np.ndarray:
        h, w = self.sprite.shape[:2]
        rows, columns = np.nonzero(self.sprite[..., 3] >= 0.5)
        hull = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.float32))[:, 0]
        return (hull - [w / 2 - 0.5, h / 2 - 0.5]) / max(h, w)


def grid(rows: slice, columns: slice) -> np.ndarray:
    """The frame coordinates `[h, w, 2]` of these pixels."""
    x, y = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    return np.stack([x, y], axis=-1).astype(np.float32)
