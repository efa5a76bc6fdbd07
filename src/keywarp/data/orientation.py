"""How a camera was held: turns what was recorded into what is shown.

Legend: (H, W) pixels as recorded · (x, y) pixel positions, right and down
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer


@dataclass(frozen=True)
class Orientation:
    """Rows and columns swapped first (`transposed`), then mirrored: all eight ways to hold a camera."""

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @staticmethod
    def of(frame: av.VideoFrame) -> Orientation:
        """As the frame's file tells; upright where it tells nothing."""
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
        return Orientation() if matrix is None else Orientation.from_display_matrix(np.frombuffer(matrix, np.int32))

    @staticmethod
    def from_display_matrix(matrix: np.ndarray) -> Orientation:
        """The nearest orientation of an ISO 14496-12 matrix, `[9]` int32: (x', y') = (a·x + c·y, b·x + d·y)."""
        a, b, _, c, d = (int(v) for v in matrix[:5])
        if abs(b) > abs(a):
            return Orientation(True, c < 0, b < 0)
        return Orientation(False, a < 0, d < 0)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) upright."""
        return (width, height) if self.transposed else (height, width)

    def image(self, image: np.ndarray) -> np.ndarray:
        """The image `[H, W, 3]` upright, contiguous."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.mirror_y:
            image = image[::-1]
        if self.mirror_x:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)

    def vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Displacements `[M, 2]` as (dx, dy), upright."""
        if self.transposed:
            vectors = vectors[:, ::-1]
        return vectors * np.array([-1 if self.mirror_x else 1, -1 if self.mirror_y else 1], vectors.dtype)

    def points(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Positions `[M, 2]` as (x, y) upright, of positions in a recorded image of this size."""
        high, wide = self.size(height, width)
        return self.vectors(points) + np.array([wide * self.mirror_x, high * self.mirror_y], points.dtype)
