"""The recipes of the frame pairs: things moving at random over a ground that moves too, in the manner of Flying Chairs;
or two frames of a clip of the benchmark.

A pair depends on (seed, its number) alone. Legend: (H, W) pixels
"""

from __future__ import annotations

import cv2
import numpy as np

from keywarp.data.casting import LENGTH, scene
from keywarp.data.emoji import ColourFont
from keywarp.data.layers import Layer, Path, Wave
from keywarp.data.scenes import Camera, Scene
from keywarp.data.textures import shape, texture

__all__ = ["pair_of_clip", "pair_scene"]

# Deviations of a displacement along x or y, in pixels at a width of 256: of the ground, and of things against it. The
# camera moves most, as in the clips that detectors see.
GROUND, THING = 4.0, 2.0


def pair_scene(font: ColourFont, seed: int, number: int, size: tuple[int, int]) -> Scene:
    """The scene of this pair: two frames of `size` (H, W), sharp and bright."""
    rng = np.random.default_rng([seed, number])
    ground = _displacement(rng, GROUND, size)
    large = size[0] + size[1] // 4, size[1] + size[1] // 4
    middle = np.array(size[::-1]) / 2 - 0.5
    layers = [Layer(texture(rng, large), _path(rng, middle, max(large), ground, 0.04), solid=True)]
    for _ in range(rng.integers(2, 6)):
        side = int(min(size) * rng.uniform(0.15, 0.5))
        sprite = shape(rng, side) if rng.random() < 0.5 else _drawn(rng, font, side)
        start = rng.uniform(0, 1, 2) * size[::-1]
        moved = ground + _displacement(rng, THING, size)
        layers.append(Layer(sprite, _path(rng, start, max(sprite.shape), moved, 0.15)))
    off, on = np.zeros(2), np.ones(2)
    return Scene(size, layers, Camera(exposure=off, defocus=off, gain=on, noise=off, crf=0, seed=0))


def pair_of_clip(font: ColourFont, seed: int, number: int, apart: int) -> tuple[Scene, int, int]:
    """A clip as of the benchmark's split train with this seed, and two of its frames, the later one first or second: 1
    to `apart` frames from each other."""
    rng = np.random.default_rng([seed, number, apart])
    distance = int(rng.integers(1, apart + 1))
    first = int(rng.integers(LENGTH - distance))
    t, to = rng.permutation([first, first + distance]).tolist()
    return scene(font, seed, 0, number, LENGTH), t, to


def _path(rng: np.random.Generator, start: np.ndarray, side: float, moved: np.ndarray, change: float) -> Path:
    """From `start` at instant 0 by `moved` until instant 1, turned, scaled and sheared by about `change`."""
    turn, growth, slant = change * rng.standard_normal(3)
    x, y = (_step(a, b) for a, b in zip(start, moved, strict=True))
    return Path(x, y, _step(np.log(side), growth), _step(rng.normal(0, 0.3), turn), _step(0, slant))


def _step(start: float, change: float) -> Wave:
    """From `start` at instant 0 by `change` until instant 1."""
    return Wave(float(start), float(change), np.pi / 2)


def _displacement(rng: np.random.Generator, deviation: float, size: tuple[int, int]) -> np.ndarray:
    """(dx, dy) in pixels."""
    return deviation * rng.standard_normal(2) * size[1] / 256


def _drawn(rng: np.random.Generator, font: ColourFont, side: int) -> np.ndarray:
    """A symbol of the font, of a class or not, with its longer side so many pixels."""
    sprite = font.sprite(str(rng.choice(list("".join(font.classes.values()) + font.distractors))))
    scale = side / max(sprite.shape)
    fitted = cv2.resize(sprite, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.pad(fitted[:, :: int(rng.choice([1, -1]))], ((2, 2), (2, 2), (0, 0)))
