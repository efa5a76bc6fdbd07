"""From video frames to network input, and results back to the frame's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keywarp.structures import Detections, MotionField

CELL = 8
"""Pixels along a side of a cell of a motion field."""


@dataclass(frozen=True)
class Placement:
    """Where a frame lies in the network's input: original size, resized size and padded size, each (height, width)."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per original pixel, (x, y)."""
        return self.resized[1] / self.original[1], self.resized[0] / self.original[0]

    @property
    def cells(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of 8-pixel cells of the whole input, and of the picture in it."""
        rows, columns = (-(-side // CELL) for side in self.padded)
        height, width = (round(side / CELL) or 1 for side in self.resized)
        return (rows, columns), (min(height, rows), min(width, columns))


@dataclass(frozen=True)
class ImageTransform:
    """The resizing rule of a network. Colours stay RGB 0…255 uint8: each network normalises for itself.

    Either `shorter` and `longer`: the shorter side becomes `shorter` pixels unless the longer would exceed `longer`
    (papers: 600 and 1000), without padding;
    or `size` (height, width): stretched to it, or with `letterbox` fitted into it and padded with `fill`.
    """

    shorter: int = 600
    longer: int = 1000
    size: tuple[int, int] | None = None
    letterbox: bool = False
    fill: int = 114

    def place(self, height: int, width: int) -> Placement:
        """Where a frame of this size lies in the network's input."""
        if self.size is not None and not self.letterbox:
            return Placement((height, width), self.size, self.size)
        if self.size is not None:
            ratio = min(self.size[0] / height, self.size[1] / width)
        else:
            ratio = min(self.shorter / min(height, width), self.longer / max(height, width))
        # YOLOX truncates; the papers' code rounds.
        cut = int if self.size is not None else round
        resized = (max(1, cut(height * ratio)), max(1, cut(width * ratio)))
        return Placement((height, width), resized, self.size or resized)

    def __call__(self, image: np.ndarray) -> Tensor:
        """Network input `[3, H, W]` uint8 of a frame `[H0, W0, 3]` uint8 RGB."""
        place = self.place(*image.shape[:2])
        if place.resized != place.original:
            image = cv2.resize(image, place.resized[::-1], interpolation=cv2.INTER_LINEAR)
        if place.padded != place.resized:
            below, right = place.padded[0] - place.resized[0], place.padded[1] - place.resized[1]
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(self.fill,) * 3)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)

    def motion(self, field: MotionField, place: Placement) -> MotionField:
        """A motion field of the original frame, on cells of 8 pixels of the network's input, in its pixels."""
        (rows, columns), picture = place.cells
        out = np.zeros((rows, columns, 2), np.float32)  # padding does not move
        resized = cv2.resize(field, picture[::-1], interpolation=cv2.INTER_NEAREST)
        out[: picture[0], : picture[1]] = resized * np.array(place.scale, np.float32)
        return out

    def restore(self, detections: Detections, place: Placement) -> Detections:
        """Detections in pixels of the network's input, in pixels of the original frame and inside it."""
        x, y = place.scale
        boxes = detections.boxes / detections.boxes.new_tensor([x, y, x, y])
        height, width = place.original
        low, high = boxes.new_zeros(4), boxes.new_tensor([width, height, width, height])
        return Detections(boxes.clamp(low, high), detections.scores, detections.labels)

    def restore_classes(self, scores: Tensor, place: Placement) -> np.ndarray:
        """Class indices `[H0, W0]` uint8 of scores `[classes, h, w]`, upsampled bilinearly."""
        scores = F.interpolate(scores[None].float(), size=place.padded, mode="bilinear", align_corners=False)
        scores = scores[..., : place.resized[0], : place.resized[1]]
        scores = F.interpolate(scores, size=place.original, mode="bilinear", align_corners=False)
        return scores[0].argmax(0).to(torch.uint8).cpu().numpy()
