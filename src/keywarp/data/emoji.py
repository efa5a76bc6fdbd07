"""Pictures of ImageNet VID's 30 classes from the system's colour emoji font: every computer has them, each one at hand.

Legend: a sprite is `[h, w, 4]` float32 RGBA, colours 0 … 255 already multiplied by alpha, alpha 0 … 1
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.errors import UserError

__all__ = ["CLASS_SYMBOLS", "DISTRACTORS", "ColourFont", "find_font"]

CLASS_SYMBOLS: dict[str, str] = {
    "airplane": "✈🛩",
    "antelope": "🦌",
    "bear": "🐻",
    "bicycle": "🚲",
    "bird": "🐦🐤🦅🦆🦜",
    "bus": "🚌🚍🚎",
    "car": "🚗🚙🚕🏎🚘",
    "cattle": "🐄🐂🐃",
    "dog": "🐕🐶🐩🦮",
    "domestic_cat": "🐈🐱",
    "elephant": "🐘",
    "fox": "🦊",
    "giant_panda": "🐼",
    "hamster": "🐹",
    "horse": "🐎🐴",
    "lion": "🦁",
    "lizard": "🦎",
    "monkey": "🐒🐵",
    "motorcycle": "🏍🛵",
    "rabbit": "🐇🐰",
    "red_panda": "🦝",  # a raccoon, dyed: no font has a red panda
    "sheep": "🐑🐏",
    "snake": "🐍",
    "squirrel": "🐿",
    "tiger": "🐅🐯",
    "train": "🚂🚆🚄🚃",
    "turtle": "🐢",
    "watercraft": "⛵🚤🛥🚢",
    "whale": "🐋🐳",
    "zebra": "🦓",
}
"""Class → its symbols, one character each: longer ones need a text shaper that Pillow does not have everywhere."""

DISTRACTORS = (
    "🍎🍌🍇🍉🍓🍕🍔🍩🍪🎂🌮🥕🌽🍄🌵🌲🌳🌻🌹🍁🔨🔧✂🔑⚙🧲🏠🏢🏰⛪🗼⛺🎈🎁⚽🏀🎸🎺🥁🎻☂👑👒👟👜💡📷📺☎⏰📚✏🚪🧹⚓🎲🧩🎩⭐☁"
)
"""Symbols that belong to none of the classes."""

FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/Noto-COLRv1.ttf",
    "/System/Library/Fonts/Apple Color Emoji.ttc",
    "C:/Windows/Fonts/seguiemj.ttf",
)
BITMAP_SIZES = (109, 137, 160, 128, 136, 96, 64)  # a font of pictures has one size or a few: Noto's 109, Apple's 160
_NOWHERE = "\U0010fffe"  # no character: what a font draws in place of those it lacks
_RED_PANDA = np.array([1.2, 0.55, 0.28], np.float32)  # a grey coat's colours times these


def find_font(path: Path | None = None) -> Path:
    """The colour emoji font at `path`, or the system's. Raises UserError without one."""
    if path is not None:
        if not path.is_file():
            raise UserError(f"there is no font file {path}; name one with colour emoji, such as NotoColorEmoji.ttf")
        return path
    for known in map(Path, FONTS):
        if known.is_file():
            return known
    raise UserError(
        "no colour emoji font found; install one (Debian, Ubuntu: apt install fonts-noto-color-emoji) or name its file "
        "with --font"
    )


class ColourFont:
    """Draws characters of a colour font as sprites.

    classes: ImageNet VID's names → those of their symbols that this font has. distractors: likewise. Raises UserError
    for a file that is no font, has no colours, or lacks a class.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._font = _load(path)
        self.sprite = lru_cache(maxsize=None)(self._sprite)
        self._missing = self._picture(_NOWHERE)
        if not self._has("🍎") or np.ptp(self.sprite("🍎")[..., :3], axis=2).max() < 30:
            raise UserError(f"{path} has no colour emoji; name another font, such as NotoColorEmoji.ttf")
        self.classes = {name: self._those_of(CLASS_SYMBOLS[name]) for name in IMAGENET_VID}
        self.distractors = self._those_of(DISTRACTORS)
        if lacking := [name for name, symbols in self.classes.items() if not symbols]:
            raise UserError(f"{path} lacks {', '.join(lacking)}; name a newer emoji font, such as NotoColorEmoji.ttf")

    def class_sprite(self, name: str, symbol: str) -> np.ndarray:
        """The sprite of one of a class's symbols: as the font has it, but for the red panda."""
        sprite = self.sprite(symbol)
        return _dyed(sprite) if name == "red_panda" else sprite

    def _sprite(self, symbol: str) -> np.ndarray:
        """The character, cut to what is drawn of it."""
        picture = self._picture(symbol)
        rows, columns = np.nonzero(picture[..., 3] > 0.05)
        return np.ascontiguousarray(picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])

    def _picture(self, symbol: str) -> np.ndarray:
        side = round(1.8 * self._font.size)
        image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        draw = ImageDraw.Draw(image)
        draw.text((side / 2, side / 2), symbol, font=self._font, embedded_color=True, anchor="mm")
        picture = np.asarray(image, np.float32)
        alpha = picture[..., 3:] / 255
        return np.concatenate([picture[..., :3] * alpha, alpha], axis=2)

    def _has(self, symbol: str) -> bool:
        picture = self._picture(symbol)
        return bool(picture[..., 3].any()) and not np.array_equal(picture, self._missing)

    def _those_of(self, symbols: str) -> str:
        return "".join(symbol for symbol in symbols if self._has(symbol))


def _load(path: Path) -> ImageFont.FreeTypeFont:
    for size in BITMAP_SIZES:
        try:
            return ImageFont.truetype(str(path), size)
        except OSError as error:
            if "size" not in str(error):
                break
    raise UserError(f"{path} is no font that can be read; name one with colour emoji, such as NotoColorEmoji.ttf")


def _dyed(sprite: np.ndarray) -> np.ndarray:
    """A raccoon as a red panda: its grey coat red-brown, what is black or nearly white as before."""
    grey = cv2.cvtColor(sprite[..., :3], cv2.COLOR_RGB2GRAY)[..., None]
    light = grey / np.maximum(255 * sprite[..., 3:], 1e-3)
    white = np.clip((light - 0.75) / 0.15, 0, 1)  # how much a pixel keeps its own colour
    red = np.minimum(grey * _RED_PANDA, 255 * sprite[..., 3:])
    return np.concatenate([white * sprite[..., :3] + (1 - white) * red, sprite[..., 3:]], axis=2)
