"""Random changes to a training clip, the same for all of its frames.

Legend: T frames of a clip · M boxes · (H, W) pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from keywarp.data.datasets import Annotation
from keywarp.data.degradations import defocus, jpeg, line_blur, low_light
from keywarp.training.config import TrainConfig

Clip = list[np.ndarray]
"""T frames, `[H, W, 3]` uint8 RGB."""

GREY = (114, 114, 114)
"""Around a picture that was made smaller."""

KEPT = 0.3
"""An object stays labelled where at least this share of its box is still in view."""


def augment(frames: Clip, target: Annotation, config: TrainConfig, rng: np.random.Generator) -> tuple[Clip, Annotation]:
    """The clip, already of the network's input size, and its last frame's annotation, both changed alike."""
    height, width = frames[0].shape[:2]
    matrix = _placement(height, width, config, rng)
    if matrix is not None:
        drawn = _at_centres(matrix)
        frames = [cv2.warpAffine(f, drawn, (width, height), flags=cv2.INTER_LINEAR, borderValue=GREY) for f in frames]
        target = moved(target, matrix, (height, width))
    if config.colour and rng.random() < 0.8:
        frames = _recoloured(frames, config.colour, rng)
    if config.degrade and rng.random() < config.degrade:
        degrade = _degradation(rng)
        frames = [degrade(f) for f in frames]
    return frames, target


def moved(target: Annotation, matrix: np.ndarray, size: tuple[int, int]) -> Annotation:
    """The annotation of a frame that is drawn through the affine `matrix` `[2, 3]` (scale and shift, or mirrored)."""
    height, width = size
    corners = target.boxes.reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]  # [M, 2, 2]
    whole = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes = whole.clip(0, [width, height, width, height]).astype(np.float32)
    kept = (_area(boxes) >= KEPT * _area(whole)) & (_area(boxes) > 1)
    mask = target.mask
    if mask is not None:
        drawn = _at_centres(matrix)
        mask = cv2.warpAffine(mask, drawn, (width, height), flags=cv2.INTER_NEAREST, borderValue=255)
    return Annotation(boxes[kept], target.labels[kept], target.tracks[kept], mask)


def _placement(height: int, width: int, config: TrainConfig, rng: np.random.Generator) -> np.ndarray | None:
    """Where the frame's pixels go, `[2, 3]`; None where they stay."""
    mirrored = rng.random() < config.flip
    scale = float(np.exp(rng.uniform(*np.log(config.zoom))))
    across, down = rng.random(2)
    if not mirrored and scale == 1:
        return None
    # A larger picture is cut at a random place, a smaller one put at one.
    matrix = np.array([[scale, 0, across * width * (1 - scale)], [0, scale, down * height * (1 - scale)]])
    if mirrored:
        matrix[0] = [-matrix[0, 0], 0, width - matrix[0, 2]]
    return matrix


def _at_centres(matrix: np.ndarray) -> np.ndarray:
    """The same for OpenCV, whose pixel 0 has its centre at 0; ours, that of boxes, has its edge there."""
    shift = matrix[:, 2] + matrix[:, :2].sum(axis=1) / 2 - 0.5
    return np.concatenate([matrix[:, :2], shift[:, None]], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _recoloured(frames: Clip, strength: float, rng: np.random.Generator) -> Clip:
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    balance = 1 + 0.3 * strength * rng.uniform(-1, 1, 3)  # of the three colours
    grey = np.float32(frames[-1].mean())
    # All four are linear in a pixel's colour: one matrix and an offset.
    to_grey = np.full((3, 3), 1 / 3, np.float32)
    matrix = brightness * contrast * np.diag(balance) @ (saturation * np.eye(3) + (1 - saturation) * to_grey)
    offset = brightness * (1 - contrast) * grey
    affine = np.concatenate([matrix, np.full((3, 1), offset)], axis=1).astype(np.float32)
    return [cv2.transform(f, affine) for f in frames]


def _degradation(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """One of the degradations that videos suffer from, of random strength."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.random()
    seed = int(rng.integers(2**31))
    kinds: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda f: line_blur(f, (4 + 10 * strength) * np.array([np.cos(angle), np.sin(angle)])),
        lambda f: defocus(f, 1 + 2.5 * strength),
        lambda f: low_light(f, 0.6 - 0.4 * strength, 6 + 10 * strength, np.random.default_rng(seed)),
        lambda f: jpeg(f, round(40 - 30 * strength)),
    ]
    return kinds[rng.integers(len(kinds))]


def resized(target: Annotation, size: tuple[int, int], original: tuple[int, int]) -> Annotation:
    """The annotation of a frame of size `original`, for the frame resized to `size`, both (H, W)."""
    y, x = size[0] / original[0], size[1] / original[1]
    mask = target.mask
    if mask is not None and mask.shape != size:
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return replace(target, boxes=(target.boxes * [x, y, x, y]).astype(np.float32), mask=mask)
