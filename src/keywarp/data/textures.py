"""Textures and shapes from random numbers: the grounds that scenes play on, and things that hide their objects.

Legend: (H, W) pixels · a sprite is `[h, w, 4]` float32 RGBA, colours 0 … 255 already multiplied by alpha, alpha 0 … 1
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["bar", "foliage", "shape", "texture"]


def texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A sprite of this size, opaque: noise of many scales in three colours, sometimes with stripes or patches."""
    colours = _palette(rng)
    height = _noise(rng, size, coarsest=int(rng.integers(60, 200)))
    if rng.random() < 0.35:
        height = 0.7 * height + 0.3 * _stripes(rng, size)
    image = _shaded(height, colours)
    if rng.random() < 0.5:
        _add_patches(rng, image, colours)
    fine = _noise(rng, size, coarsest=6) - 0.5
    image *= 1 + rng.uniform(0.1, 0.5) * fine[..., None]
    slope = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None, None]
    image *= 1 + rng.uniform(-0.25, 0.25) * slope
    return np.concatenate([image.clip(0, 255), np.ones((*size, 1), np.float32)], axis=2)


def shape(rng: np.random.Generator, side: int) -> np.ndarray:
    """A sprite of a lumpy outline filled with a texture."""
    return texture(rng, (side, side)) * _blob(rng, side)[..., None]


def foliage(rng: np.random.Generator, side: int) -> np.ndarray:
    """A sprite of a bunch of leaves with gaps between them."""
    leaves = np.zeros((side, side, 4), np.float32)
    for _ in range(int(rng.integers(9, 16))):
        across = int(side * rng.uniform(0.2, 0.4))
        leaf = np.ones((across, across, 4), np.float32)
        leaf[..., :3] = rng.uniform(0.5, 1.1) * np.array([60, 105, 40], np.float32)
        leaf *= _blob(rng, across)[..., None]
        y, x = rng.integers(0, side - across, 2)
        under = leaves[y : y + across, x : x + across]
        under *= 1 - leaf[..., 3:]
        under += leaf
    return leaves


def bar(rng: np.random.Generator, side: int) -> np.ndarray:
    """A sprite of a tall bar: a post or a trunk."""
    width = int(side * rng.uniform(0.06, 0.14))
    sprite = np.ones((side, width + 4, 4), np.float32)
    sprite[..., :3] = texture(rng, (side, width + 4))[..., :3] * rng.uniform(0.4, 0.9)
    round_ = 1 - 0.5 * np.linspace(-1, 1, width + 4, dtype=np.float32) ** 2  # darker towards its sides
    sprite[..., :3] *= round_[None, :, None]
    sprite[:, [0, 1, -2, -1]] = 0
    return sprite


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Three colours `[3, 3]`, muted, of neighbouring hues, from dark to light."""
    hue = rng.uniform(0, 180) + np.array([0, 1, 2]) * rng.uniform(-25, 25)
    saturation, value = rng.uniform(20, 130, 3), np.sort(rng.uniform(50, 230, 3))
    hsv = np.stack([hue % 180, saturation, value], axis=1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def _shaded(height: np.ndarray, colours: np.ndarray) -> np.ndarray:
    low = np.clip(2 * height, 0, 1)[..., None]
    high = np.clip(2 * height - 1, 0, 1)[..., None]
    return colours[0] + low * (colours[1] - colours[0]) + high * (colours[2] - colours[1])


def _noise(rng: np.random.Generator, size: tuple[int, int], coarsest: int) -> np.ndarray:
    """`[H, W]` float32 in 0 … 1: smooth noise with grains of `coarsest` pixels, then weaker of half the grain …"""
    total, weight, grain = np.zeros(size, np.float32), 1.0, coarsest
    while grain >= 2:
        cells = rng.random((size[0] // grain + 2, size[1] // grain + 2), np.float32)
        total += weight * cv2.resize(cells, size[::-1], interpolation=cv2.INTER_CUBIC)
        weight, grain = 0.6 * weight, grain // 2
    return np.asarray(cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX))


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(12, 60)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return 0.5 + 0.5 * np.sin((np.cos(angle) * x + np.sin(angle) * y) * np.float32(2 * np.pi / period))


def _add_patches(rng: np.random.Generator, image: np.ndarray, colours: np.ndarray) -> None:
    for _ in range(int(rng.integers(5, 20))):
        side = int(rng.integers(4, max(6, min(image.shape[:2]) // 2)))
        y, x = rng.integers(0, image.shape[0] - side), rng.integers(0, image.shape[1] - side)
        alpha = 0.6 * _blob(rng, side)[..., None]
        under = image[y : y + side, x : x + side]
        under *= 1 - alpha
        under += alpha * colours[rng.integers(3)] * rng.uniform(0.6, 1.3)


def _blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """`[side, side]` float32: 1 inside a closed lumpy outline, 0 outside, smooth between."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = np.ones(60)
    for lumps in range(2, 7):
        radius += rng.uniform(0, 0.5) / lumps * np.sin(lumps * turn + rng.uniform(0, 2 * np.pi))
    radius *= (0.5 - 1 / side) / radius.max()
    corners = side * (0.5 + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)) - 0.5
    fixed = np.round(corners * 16).astype(np.int32)  # four bits of fraction
    filled = cv2.fillPoly(np.zeros((side, side), np.uint8), [fixed], 255, cv2.LINE_AA, shift=4)
    return filled.astype(np.float32) / 255
