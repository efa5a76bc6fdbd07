"""Panels: pictures with a line of text above, side by side in rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

AREA = 384 * 216
"""Pixels of a panel's picture, whatever its shape."""
COLUMNS, GAP, LINE, LETTERS = 4, 6, 22, 13
PAPER, INK, PALE = (24, 26, 30), (235, 236, 238), (150, 154, 162)


class Panel(NamedTuple):
    """A picture `[H, W, 3]` uint8 RGB with its title."""

    title: str
    picture: np.ndarray


def picture_size(height: int, width: int, area: int = AREA) -> tuple[int, int]:
    """(height, width) of a panel for frames of this size: of their shape, about `area` pixels, even."""
    ratio = (area / (height * width)) ** 0.5
    return max(2, round(height * ratio / 2) * 2), max(2, round(width * ratio / 2) * 2)


def arranged(panels: Sequence[Panel], width: int | None = None) -> np.ndarray:
    """The panels, all of one size, in rows as even as can be. width: of the whole at least."""
    rows = -(-len(panels) // COLUMNS)
    columns = -(-len(panels) // rows)
    height, wide = panels[0].picture.shape[:2]
    total = max(columns * (wide + GAP) + GAP, width or 0)
    sheet = np.full((rows * (height + LINE + GAP), total, 3), PAPER, np.uint8)
    for n, (title, picture) in enumerate(panels):
        top, left = n // columns * (height + LINE + GAP), GAP + n % columns * (wide + GAP)
        sheet[top : top + LINE, left : left + wide] = line(title, wide)
        sheet[top + LINE : top + LINE + height, left : left + wide] = picture
    return sheet


def line(text: str, width: int, *, left: int = 2, ink: tuple[int, int, int] = INK) -> np.ndarray:
    """`[LINE, width, 3]`, a line of text from pixel `left` on, cut where it is too long."""
    strip = Image.new("RGB", (width, LINE), PAPER)
    ImageDraw.Draw(strip).text((left, LINE / 2), text, fill=ink, font=_font(LETTERS), anchor="lm")
    return np.asarray(strip)


def written(picture: np.ndarray, text: str, at: tuple[float, float], anchor: str = "ls") -> np.ndarray:
    """A copy with small letters, dark-edged, at (x, y); `anchor` as Pillow's."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(
        at, text, fill="white", font=_font(LETTERS - 1), anchor=anchor, stroke_width=2, stroke_fill="black"
    )
    return np.array(image)


def blank(size: tuple[int, int], reason: str) -> np.ndarray:
    """A picture (height, width) with nothing but the reason."""
    image = Image.new("RGB", size[::-1], (44, 47, 54))
    place = (size[1] / 2, size[0] / 2)
    ImageDraw.Draw(image).multiline_text(place, reason, fill=PALE, font=_font(LETTERS), anchor="mm", align="center")
    return np.array(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own letters, which every installation has: Latin ones only."""
    return ImageFont.load_default(size)


def enlarged(values: np.ndarray, size: tuple[int, int], *, cells: bool = False) -> np.ndarray:
    """A map `[h, w, …]` at (height, width); with `cells` each cell is a plain rectangle."""
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST if cells else cv2.INTER_LINEAR)
