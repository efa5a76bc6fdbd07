"""Clips of moving, blurred shapes with exact boxes and exact flow, drawn from a seed.

The demo's detector is trained on them and its clip is one of them. Legend: T frames · (H, W) pixels · M objects
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star")
SUBFRAMES = 5  # images averaged for the motion blur
EXPOSURE = 0.6  # share of the frame interval during which the shutter is open


def _outline(label: int) -> np.ndarray:
    """Corners `[P, 2]` of a shape of radius 1 around the origin."""
    if label == 0:
        angles, radii = np.linspace(0, 2 * np.pi, 40, endpoint=False), np.ones(40)
    elif label == 3:
        angles, radii = np.linspace(0, 2 * np.pi, 10, endpoint=False), np.tile([1.0, 0.45], 5)
    else:
        corners = 4 if label == 1 else 3
        angles, radii = np.linspace(0, 2 * np.pi, corners, endpoint=False), np.ones(corners)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """One object: its path, turning and growth are linear in time; it bounces off the picture's edge."""

    label: int
    start: np.ndarray  # (x, y) at t = 0
    velocity: np.ndarray  # pixels a frame
    radius: float
    growth: float  # relative, a frame
    angle: float
    spin: float  # radians a frame
    colours: np.ndarray  # [2, 3] body and stripe
    size: tuple[int, int]

    def pose(self, t: float) -> np.ndarray:
        """The map `[2, 3]` from the shape's own coordinates to pixels at time t."""
        height, width = self.size
        x, y = (_bounce(v, m) for v, m in zip(self.start + self.velocity * t, (width, height), strict=True))
        radius = self.radius * (1 + 0.3 * np.sin(self.growth * t))
        c, s = np.cos(self.angle + self.spin * t) * radius, np.sin(self.angle + self.spin * t) * radius
        return np.array([[c, -s, x], [s, c, y]], np.float32)

    def outline(self, t: float) -> np.ndarray:
        """Its corners `[P, 2]` in pixels at time t."""
        pose = self.pose(t)
        return _outline(self.label) @ pose[:, :2].T + pose[:, 2]


def _bounce(value: float, limit: float) -> float:
    """A position that goes on steadily, folded into 0…limit."""
    value = value % (2 * limit)
    return 2 * limit - value if value > limit else value


@dataclass(frozen=True)
class SyntheticClip:
    """A clip drawn on demand: `frame(t)`, `boxes(t)`, `flow(t, k)` for t = 0 … length − 1."""

    size: tuple[int, int]
    length: int
    background: np.ndarray
    pan: np.ndarray
    shapes: tuple[Shape, ...]
    noise: float
    seed: int

    def frame(self, t: int) -> np.ndarray:
        """The picture `[H, W, 3]` uint8 RGB, blurred along every motion while the shutter is open."""
        shutter = np.linspace(-EXPOSURE / 2, EXPOSURE / 2, SUBFRAMES)
        picture = np.mean([self._instant(t + dt) for dt in shutter], axis=0)
        grain = np.random.default_rng((self.seed, t)).normal(0, self.noise, picture.shape)
        return (picture + grain).clip(0, 255).astype(np.uint8)

    def _instant(self, t: float) -> np.ndarray:
        height, width = self.size
        x, y = self.pan * t
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)  # maps picture to background
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(self.background, shift, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        for shape in self.shapes:
            self._draw(picture, shape, t)
        return picture.astype(np.float32)

    def _draw(self, picture: np.ndarray, shape: Shape, t: float) -> None:
        outline = shape.outline(t)
        stripe = np.array([[-0.9, -0.15], [0.9, -0.15], [0.9, 0.15], [-0.9, 0.15]], np.float32)
        pose = shape.pose(t)
        for points, colour in (
            (outline, shape.colours[0]),
            (0.6 * stripe @ pose[:, :2].T + pose[:, 2], shape.colours[1]),
        ):
            fixed = np.round(points * 16).astype(np.int32)  # 4 fractional bits
            cv2.fillPoly(picture, [fixed], colour.tolist(), lineType=cv2.LINE_AA, shift=4)

    def boxes(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes `[M, 4]` xyxy and labels `[M]` of the objects of which at least a fifth is in the picture and seen."""
        height, width = self.size
        owner = self.owner(t)
        boxes, labels = [], []
        for n, shape in enumerate(self.shapes):
            outline = shape.outline(t)
            whole = cv2.contourArea(outline)
            low, high = outline.min(0), outline.max(0)
            box = np.concatenate([low, high]).clip(0, [width, height, width, height])
            if (owner == n).sum() >= 0.2 * whole:
                boxes.append(box)
                labels.append(shape.label)
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)

    def owner(self, t: float) -> np.ndarray:
        """Which object `[H, W]` each pixel shows; −1 for the background."""
        owner = np.full(self.size, -1, np.int16)
        for n, shape in enumerate(self.shapes):
            cv2.fillPoly(owner, [np.round(shape.outline(t) * 16).astype(np.int32)], n, shift=4)
        return owner

    def flow(self, t: int, k: int) -> np.ndarray:
        """Where each pixel of frame t lies in frame k: `[H, W, 2]` (dx, dy) in pixels."""
        height, width = self.size
        owner = self.owner(t)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        flow = np.broadcast_to((self.pan * (t - k)).astype(np.float32), (height, width, 2)).copy()
        for n, shape in enumerate(self.shapes):
            here, there = (np.vstack([shape.pose(time), [0, 0, 1]]) for time in (t, k))
            m = there @ np.linalg.inv(here)
            inside = owner == n
            px, py = x[inside], y[inside]
            flow[inside] = np.stack(
                [m[0, 0] * px + m[0, 1] * py + m[0, 2] - px, m[1, 0] * px + m[1, 1] * py + m[1, 2] - py], 1
            )
        return flow


def synthetic_clip(
    seed: int, *, length: int = 20, size: tuple[int, int] = (240, 320), objects: int = 4
) -> SyntheticClip:
    """The clip of a seed: one to `objects` shapes over a textured, panning background."""
    rng = np.random.default_rng(seed)
    height, width = size
    shapes = []
    for _ in range(rng.integers(1, objects + 1)):
        speed, direction = rng.gamma(2.0, 0.009 * width), rng.uniform(0, 2 * np.pi)
        label = int(rng.integers(len(CLASSES)))
        shapes.append(
            Shape(
                label=label,
                start=rng.uniform(0.1, 0.9, 2) * (width, height),
                velocity=speed * np.array([np.cos(direction), np.sin(direction)]),
                radius=float(rng.uniform(0.07, 0.2) * height),
                growth=float(rng.uniform(-0.15, 0.15)),
                angle=float(rng.uniform(0, 2 * np.pi)),
                spin=float(rng.normal(0, 0.06)),
                colours=_colours(rng, label),
                size=size,
            )
        )
    pan = rng.normal(0, 0.006 * width, 2)
    return SyntheticClip(size, length, _texture(rng, size), pan, tuple(shapes), float(rng.uniform(1, 6)), seed)


def _colours(rng: np.random.Generator, label: int) -> np.ndarray:
    """Body and stripe `[2, 3]` RGB: each class has its own hue, in all shades, so that a small network learns it."""
    hues = (label * 45 + rng.uniform(-9, 9) + np.array([0, 90])) % 180  # OpenCV's hues go to 180
    hsv = np.array([[[hue, rng.uniform(150, 255), rng.uniform(150, 255)] for hue in hues]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise at several scales in muted colours: something for the flow to hold on to."""
    height, width = size
    picture = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((3, 60), (10, 35), (40, 25), (120, 12)):
        coarse = rng.normal(0, weight, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grey = picture.mean(2, keepdims=True)
    return (rng.uniform(70, 150) + 0.4 * picture + 0.6 * grey).clip(0, 255).astype(np.float32)
