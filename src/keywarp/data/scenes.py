"""A synthetic scene: layers over a background, filmed by a camera with faults, and what is true of every frame.

Legend: T frames · (H, W) pixels · layers are counted from the back, 0 is the background
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from keywarp.data.degradations import defocus, low_light
from keywarp.data.layers import Layer, grid

__all__ = ["Camera", "Frame", "Object", "Scene"]

SOLID_FROM = 0.5  # a pixel belongs to the layer that covers at least half of it
SMEAR_STEP = 1.5  # pixels between the instants whose mean is a blurred picture
MOST_INSTANTS = 16
VISIBLE_SHARE = 0.2
VISIBLE_SIDE = 8
"""An object is annotated in a frame that shows at least this share of it, over at least so many pixels each way."""


@dataclass(frozen=True)
class Camera:
    """How each of the T frames is taken; arrays are `[T]` float.

    exposure: how long the shutter is open, in frames; the middle of that time is the frame's instant. defocus: radius
    of the blur in pixels. gain: what the light is multiplied by. noise: the sensor's, standard deviation of 255. crf:
    of H.264, 0 … 51. seed: of the noise.
    """

    exposure: np.ndarray
    defocus: np.ndarray
    gain: np.ndarray
    noise: np.ndarray
    crf: int
    seed: int


@dataclass(frozen=True)
class Frame:
    """One frame.

    image: `[H, W, 3]` uint8 RGB. owner: `[H, W]` uint8, the layer seen at each pixel. on_screen: pixels that each layer
    would have without those in front of it.
    """

    image: np.ndarray
    owner: np.ndarray
    on_screen: list[int]


@dataclass(frozen=True)
class Object:
    """An annotated object in one frame.

    layer: which one it is. box: (x, y, w, h), the pixels between its outermost visible ones. occluded: share of its
    part on screen that others hide. truncated: share of it off screen. blur: pixels that a point of it is smeared over.
    """

    layer: int
    label: int
    box: tuple[int, int, int, int]
    occluded: float
    truncated: float
    blur: float


@dataclass(frozen=True)
class Scene:
    """Layers `[L]`, from the background to the foremost, of a frame size (H, W), and how they are filmed."""

    size: tuple[int, int]
    layers: list[Layer]
    camera: Camera

    def __len__(self) -> int:
        """T."""
        return len(self.camera.exposure)

    def frame(self, t: int) -> Frame:
        """What the camera sees in frame t, and what is where at its instant."""
        image = np.zeros((*self.size, 3), np.float32)
        owner = np.zeros(self.size, np.uint8)
        on_screen = []
        for number, layer in enumerate(self.layers):
            place, sharp = layer.draw([t], self.size)
            covered = sharp[..., 3] >= SOLID_FROM
            owner[place][covered] = number
            on_screen.append(int(covered.sum()))
            instants = self._instants(layer, t)
            place, picture = layer.draw(instants, self.size) if len(instants) > 1 else (place, sharp)
            under = image[place]
            under *= 1 - picture[..., 3:]
            under += picture[..., :3]
        return Frame(self._filmed(image, t), owner, on_screen)

    def objects(self, t: int, frame: Frame) -> list[Object]:
        """What is annotated of frame t, from `frame(t)`."""
        found = []
        for number, layer in enumerate(self.layers):
            if layer.label is None or not (seen := frame.owner == number).any():
                continue
            x, y, w, h = cv2.boundingRect(seen.view(np.uint8))
            visible, here, whole = int(seen.sum()), frame.on_screen[number], layer.area(t)
            if visible < VISIBLE_SHARE * whole or min(w, h) < VISIBLE_SIDE:
                continue
            occluded, truncated = 1 - visible / here, max(1 - here / whole, 0.0)
            blur = self._smear(layer, t) + 2 * float(self.camera.defocus[t])
            rounded = [round(value, 3) for value in (occluded, truncated, blur)]
            found.append(Object(number, layer.label, (x, y, w, h), *rounded))
        return found

    def mask(self, frame: Frame) -> np.ndarray:
        """`[H, W]` uint8: label + 1 at the pixels of every object, however little is seen of it; 0 elsewhere."""
        values = [0 if layer.label is None else layer.label + 1 for layer in self.layers]
        return np.array(values, np.uint8)[frame.owner]

    def flow(self, t: int, to: int, frame: Frame) -> np.ndarray:
        """`[H, W, 2]` float32, (dx, dy) in pixels: where what frame t shows is at instant `to`, seen or hidden."""
        points = grid(slice(0, self.size[0]), slice(0, self.size[1]))
        result = np.zeros_like(points)
        for number, layer in enumerate(self.layers):
            mine = frame.owner == number
            there = layer.path.pose(to).to_frame(layer.path.pose(t).to_sprite(points[mine]))
            result[mine] = there - points[mine]
        return result

    def _filmed(self, image: np.ndarray, t: int) -> np.ndarray:
        camera = self.camera
        taken = defocus(image.round().clip(0, 255).astype(np.uint8), float(camera.defocus[t]))
        rng = np.random.default_rng([camera.seed, t])
        return low_light(taken, float(camera.gain[t]), float(camera.noise[t]), rng)

    def _smear(self, layer: Layer, t: int) -> float:
        """How far the layer's fastest point moves while the shutter is open, pixels."""
        half = float(self.camera.exposure[t]) / 2
        return float(np.linalg.norm(layer.outline(t + half) - layer.outline(t - half), axis=1).max())

    def _instants(self, layer: Layer, t: int) -> list[float]:
        count = int(np.clip(np.ceil(self._smear(layer, t) / SMEAR_STEP), 1, MOST_INSTANTS))
        half = float(self.camera.exposure[t]) / 2
        return [t + half * (2 * (n + 0.5) / count - 1) for n in range(count)]
