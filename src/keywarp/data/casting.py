"""The recipe of the synthetic benchmark: which objects play in a clip, how fast they move and what hides or blurs them.

A clip depends on (seed, split, its number) alone. Legend: T frames · (H, W) pixels
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from keywarp.data.emoji import ColourFont
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.data.layers import Layer, Path, Wave
from keywarp.data.scenes import Camera, Scene
from keywarp.data.textures import bar, foliage, texture
from keywarp.evaluation.motion import motion_iou

__all__ = ["LENGTH", "RECIPE", "SIZE", "cast", "scene"]

RECIPE = 2
"""Version of everything in this file: another number makes other videos from the same seed."""

SIZE = (192, 320)
LENGTH = 48
"""Frames of a clip."""
BLOCK = 30
"""Clips that together hold each class twice and each speed in its share: 10 clips with one object, with two, three."""

# The motion IoU that an object's path is paced to, by the share of objects below it. Frames differ, and boxes shrink
# behind other things, which makes some faster than their object's mean: so there are more slow objects and fewer fast
# ones than are wanted of boxes, which are FGFA's 38, 36 and 26 %.
SHARES = (0.0, 0.2, 0.2, 0.555, 0.555, 1.0)
MOTIONS = (0.2, 0.67, 0.72, 0.88, 0.915, 0.985)

RARE_POSE, OCCLUDER, MOTION_BLUR, DEFOCUS, LOW_LIGHT, LOW_BITRATE = 0.2, 0.4, 0.5, 0.35, 0.25, 0.4
"""Probabilities: of the first for an object, of the others for a clip."""

COLOURED = {"airplane", "bicycle", "bus", "car", "motorcycle", "train", "watercraft"}  # of any hue


class Role(NamedTuple):
    """An object of a clip: its class, and the motion IoU that it is to have."""

    name: str
    motion: float


def cast(seed: int, split: int, number: int) -> list[Role]:
    """The objects of this clip: drawn without replacement within its block of 30 clips, so that shares come out."""
    block, place = divmod(number, BLOCK)
    rng = np.random.default_rng([seed, split, block, 0])
    counts = rng.permutation(np.repeat([1, 2, 3], BLOCK // 3))
    total = int(counts.sum())
    names = rng.permutation(np.resize(np.array(list(IMAGENET_VID)), total))
    shares = rng.permutation((np.arange(total) + rng.random(total)) / total)
    first = int(counts[:place].sum())
    mine = slice(first, first + int(counts[place]))
    targets = np.interp(shares[mine], SHARES, MOTIONS)
    return [Role(str(name), float(target)) for name, target in zip(names[mine], targets, strict=True)]


def scene(font: ColourFont, seed: int, split: int, number: int, length: int) -> Scene:
    """This clip of `length` frames."""
    rng = np.random.default_rng([seed, split, number, 1])
    actors = [_actor(rng, font, role, length) for role in cast(seed, split, number)]
    actors += [_distractor(rng, font, length) for _ in range(rng.integers(0, 4))]
    rng.shuffle(actors)
    hiding = [_occluder(rng, length) for _ in range(rng.integers(1, 4))] if rng.random() < OCCLUDER else []
    return Scene(SIZE, [_background(rng, length), *actors, *hiding], _camera(rng, length))


def _actor(rng: np.random.Generator, font: ColourFont, role: Role, length: int) -> Layer:
    sprite = font.class_sprite(role.name, str(rng.choice(list(font.classes[role.name]))))
    sprite = _varied(rng, sprite, 90 if role.name in COLOURED else 7)
    side = SIZE[0] * np.exp(rng.uniform(np.log(0.3), np.log(0.65)))
    path = _path(rng, side, rng.random() < RARE_POSE, length)
    layer = Layer(_scaled(sprite, path), path, list(IMAGENET_VID).index(role.name))
    return replace(layer, path=_paced(layer, role.motion, length))


def _distractor(rng: np.random.Generator, font: ColourFont, length: int) -> Layer:
    sprite = _varied(rng, font.sprite(str(rng.choice(list(font.distractors)))), 10)
    path = _path(rng, SIZE[0] * rng.uniform(0.2, 0.45), rng.random() < RARE_POSE, length)
    path = replace(path, pace=float(np.exp(rng.uniform(np.log(0.02), np.log(0.8)))))
    return Layer(_scaled(sprite, path), path)


def _occluder(rng: np.random.Generator, length: int) -> Layer:
    height, width = SIZE
    if rng.random() < 0.5:
        side, sprite, y = 2.2 * height, bar(rng, int(2.2 * height)), height / 2
    else:
        side = height * rng.uniform(0.35, 0.7)
        sprite, y = foliage(rng, int(side)), height * rng.uniform(0.3, 1)
    x = Wave(width * rng.uniform(0.2, 0.8), *_swing(rng, (5, 160), (60, 200)))
    tilt = Wave(rng.uniform(-0.25, 0.25))
    return Layer(sprite, Path(x, Wave(y), Wave(np.log(side)), tilt, middle=length / 2))


def _background(rng: np.random.Generator, length: int) -> Layer:
    height, width = SIZE
    size = height + 160, width + 200
    x, y = (Wave(side / 2 - 0.5, *_swing(rng, (5, 90), (60, 200))) for side in (width, height))
    zoom = Wave(np.log(max(size)), *_swing(rng, (0, 0.08), (60, 150)))
    return Layer(texture(rng, size), Path(x, y, zoom, middle=length / 2), solid=True)


def _path(rng: np.random.Generator, side: float, rare: bool, length: int) -> Path:
    height, width = SIZE
    x = Wave(width * rng.uniform(0.4, 0.6), *_swing(rng, (0.2 * width, 0.42 * width), (40, 90)))
    y = Wave(height * rng.uniform(0.4, 0.6), *_swing(rng, (0.1 * height, 0.35 * height), (40, 90)))
    size = Wave(np.log(side), *_swing(rng, (0.05, 0.3), (40, 120)))
    angle = Wave(rng.uniform(-0.15, 0.15), *_swing(rng, (1.4, 3.1) if rare else (0.05, 0.35), (40, 100)))
    shear = Wave(0, *_swing(rng, (0.3, 0.7) if rare else (0, 0.12), (40, 100)))
    first, second = (Wave(0, *_swing(rng, (0.005, 0.04), (20, 50))) for _ in range(2))
    return Path(x, y, size, angle, shear, (first, second), middle=length / 2)


def _swing(
    rng: np.random.Generator, amplitude: tuple[float, float], period: tuple[float, float]
) -> tuple[float, float, float]:
    """Amplitude, rate and phase of a Wave; periods in frames."""
    return rng.uniform(*amplitude), 2 * np.pi / rng.uniform(*period), rng.uniform(0, 2 * np.pi)


def _paced(layer: Layer, motion: float, length: int) -> Path:
    """The layer's path at the pace that gives its box this mean motion IoU, hidden by nothing but the frame's edge."""
    slow, quick = np.log(0.002), np.log(3.0)
    for _ in range(12):
        pace = float(np.exp((slow + quick) / 2))
        path = replace(layer.path, pace=pace)
        if _mean_motion_iou(replace(layer, path=path), length) > motion:
            slow = np.log(pace)
        else:
            quick = np.log(pace)
    return path


def _mean_motion_iou(layer: Layer, length: int) -> float:
    outlines = np.stack([layer.outline(t) for t in range(length)])  # [T, P, 2]
    boxes = np.concatenate([outlines.min(1), outlines.max(1)], axis=1)
    inside = np.clip(boxes, 0, np.tile(SIZE[::-1], 2))
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, inside)]
    (frames,) = np.nonzero(areas[1] > 0.25 * areas[0])
    return float(motion_iou(inside[frames], frames, np.zeros(len(frames), int)).mean()) if len(frames) else 0.0


def _varied(rng: np.random.Generator, sprite: np.ndarray, hue: float) -> np.ndarray:
    """The sprite with other colours, hue by at most `hue` of 180, and perhaps mirrored."""
    alpha = sprite[..., 3:]
    plain = (sprite[..., :3] / np.maximum(alpha, 1e-3)).clip(0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(plain, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-hue, hue)) % 180
    hsv[..., 1] *= rng.uniform(0.75, 1.15)
    hsv[..., 2] *= rng.uniform(0.75, 1.1)
    colours = cv2.cvtColor(hsv.clip(0, [179, 255, 255]).astype(np.uint8), cv2.COLOR_HSV2RGB)
    varied = np.concatenate([colours * alpha, alpha], axis=2).astype(np.float32)
    return np.ascontiguousarray(varied[:, ::-1]) if rng.random() < 0.5 else varied


def _scaled(sprite: np.ndarray, path: Path) -> np.ndarray:
    """The sprite at about its size in the frame, so that drawing it drops no pixels, with a clear rim."""
    scale = min(np.exp(path.size.base) / max(sprite.shape), 1.0)
    smaller = cv2.resize(sprite, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.pad(smaller, ((2, 2), (2, 2), (0, 0)))


def _camera(rng: np.random.Generator, length: int) -> Camera:
    exposure = rng.uniform(0.2, 0.5) + _spell(rng, length, MOTION_BLUR) * rng.uniform(1.2, 3.5)
    dark = _spell(rng, length, LOW_LIGHT)
    return Camera(
        exposure=exposure,
        defocus=_spell(rng, length, DEFOCUS) * rng.uniform(2.5, 7),
        gain=1 - dark * rng.uniform(0.6, 0.88),
        noise=rng.uniform(0, 2) + dark * rng.uniform(6, 14),
        crf=int(rng.integers(34, 42) if rng.random() < LOW_BITRATE else rng.integers(20, 27)),
        seed=int(rng.integers(2**31)),
    )


def _spell(rng: np.random.Generator, length: int, probability: float) -> np.ndarray:
    """`[T]` from 0 to 1: a stretch of some of the frames, rising and falling; all 0 unless with this probability."""
    middle, half = rng.uniform(0, length), rng.uniform(5, 13)
    rise = np.clip((half - np.abs(np.arange(length) - middle)) / 3, 0, 1)
    return rise * (rng.random() < probability)
