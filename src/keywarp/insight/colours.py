"""Colours for maps: features, motion, weights, quality.

Legend: C channels · (h, w) cells
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import flow_to_image


class FeatureColours:
    """`[h, w, 3]` uint8 of features `[C, h, w]`: their first three principal components as red, green and blue.

    The components, and the values that become the darkest and the brightest, are those of the features that it is
    built with: alike features have alike colours in every frame.
    """

    def __init__(self, features: Tensor) -> None:
        rows = features.detach().flatten(1).T.double().cpu()  # [h·w, C]
        self._mean = rows.mean(dim=0)
        centred = rows - self._mean
        _, axes = torch.linalg.eigh(centred.T @ centred)  # by ascending variance, as columns
        axes = axes.flip(1)[:, :3]
        # An axis' direction is arbitrary: its largest entry is made positive, whatever the library's choice.
        largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
        self._axes = axes * torch.where(largest < 0, -1, 1)
        values = centred @ self._axes
        self._low, self._high = values.quantile(0.02, dim=0), values.quantile(0.98, dim=0)

    def __call__(self, features: Tensor) -> np.ndarray:
        rows = features.detach().flatten(1).T.double().cpu() - self._mean
        bright = (rows @ self._axes - self._low) / (self._high - self._low).clamp(min=1e-9)  # [h·w, 3 or less]
        bytes_ = (bright.clamp(0, 1) * 255).round().byte().view(*features.shape[1:], -1).numpy()
        missing = 3 - bytes_.shape[-1]  # of maps with fewer channels
        return np.concatenate([bytes_, np.repeat(bytes_[..., -1:], missing, axis=-1)], axis=-1)


class Reach:
    """The value that the ends of a colour scale stand for: 1, 2 or 5 times a power of ten, `least` at least.

    It holds 98 % of a frame's values and stays until they outgrow it or fill less than a fifth: the scale does not
    change with every frame, and one wild frame does not pale all that follow.
    """

    def __init__(self, least: float = 1e-6) -> None:
        self._least = least
        self._value = 0.0

    def with_frame(self, values: np.ndarray) -> float:
        """The reach, now that a frame's values came, lengths of at least 0; those not finite are left out."""
        known = values[np.isfinite(values)]
        wanted = max(float(np.quantile(known, 0.98)) if known.size else 0.0, self._least)
        if not self._value / 5 <= wanted <= self._value:
            power = 10.0 ** math.floor(math.log10(wanted))
            steps = (step * power for step in (1, 2, 5, 10))
            self._value = float(f"{next(step for step in steps if step >= wanted * (1 - 1e-9)):.1g}")
        return self._value


def flow_colours(flow: np.ndarray, reach: float) -> np.ndarray:
    """`[h, w, 3]` uint8 of motion `[h, w, 2]` in the usual colour wheel: hue = direction, white = none.

    reach: the length that has the fullest colour; longer vectors have it too.
    """
    lengths = np.linalg.norm(flow, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        held = np.where(lengths > reach, flow * (reach / lengths), flow)
    # flow_to_image takes the longest vector for the fullest: one more column holds it.
    full = np.broadcast_to(np.array([reach, 0], np.float32), (len(flow), 1, 2))
    vectors = torch.from_numpy(np.concatenate([np.nan_to_num(held), full], axis=1).astype(np.float32))
    return flow_to_image(vectors.permute(2, 0, 1))[:, :, :-1].permute(1, 2, 0).numpy()


def wheel(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The colour wheel: `[side, side, 3]` uint8, and which of its pixels `[side, side]` lie on the disc."""
    across = np.linspace(-1, 1, side, dtype=np.float32)
    vectors = np.stack(np.meshgrid(across, across), axis=-1)
    return flow_colours(vectors, 1.0), np.linalg.norm(vectors, axis=-1) <= 1


def heat(values: np.ndarray, top: float) -> np.ndarray:
    """`[h, w, 3]` uint8 RGB of values `[h, w]`: dark at 0, bright at `top` and above."""
    bytes_ = np.round(np.clip(np.nan_to_num(values) / top, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(bytes_, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


BAD, NEUTRAL, GOOD = np.array([[214, 69, 32], [245, 245, 245], [38, 102, 186]], np.float32)
"""Colours of the lowest value, of the middle and of the highest on a scale with two sides."""


def two_sided(values: np.ndarray, reach: float) -> np.ndarray:
    """`[h, w, 3]` uint8 RGB of values `[h, w]`: red at −reach and below, white at 0, blue at reach and above."""
    share = np.clip(np.nan_to_num(values) / reach, -1, 1)[..., None]
    side = np.where(share < 0, BAD, GOOD)
    return np.round(NEUTRAL + (side - NEUTRAL) * np.abs(share)).astype(np.uint8)
