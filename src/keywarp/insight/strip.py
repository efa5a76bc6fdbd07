"""A strip over time: which frames are key frames, how much of each is computed, what the current one reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keywarp.insight.layout import GAP, INK, LINE, PALE, PAPER, line

BARS, MARKS, BAR = 44, 7, 6
"""Pixels: the height of a full bar, of the marks under it, and the width of a bar with its gap."""
LONGEST, ROW = 6000, 200
"""Frames that are remembered, and frames a row of the overview."""
KEY, PART, NONE, READ = (255, 200, 40), (86, 156, 240), (52, 56, 64), (255, 120, 60)
"""Colours of key frames, of the computed share of others, of what is not computed, of frames that are read."""


class _Entry(NamedTuple):
    computed: float
    is_key: bool


class Strip:
    """Takes the share of computed cells frame by frame; `LONGEST` frames are remembered.

    width: of the pictures, pixels. frames: how many there will be, None where that is not known.
    """

    def __init__(self, width: int, frames: int | None) -> None:
        self._width = width
        self._bar, self._frames = BAR, None
        if frames and (width - 2 * GAP) // frames >= BAR // 2:  # there is room for all
            self._bar, self._frames = min(2 * BAR, (width - 2 * GAP) // frames), frames
        self._entries: dict[int, _Entry] = {}
        self._key_frames = 0

    def add(self, frame: int, computed: float, is_key: bool) -> None:
        """A frame's share of computed cells, 0 to 1. Frames may come out of order."""
        self._key_frames += is_key and frame not in self._entries
        self._entries[frame] = _Entry(computed, is_key)
        self._entries.pop(frame - LONGEST, None)

    def drawn(self, current: int, references: Sequence[int]) -> np.ndarray:
        """`[·, width, 3]` around the current frame, with marks under the frames that it reads."""
        room = (self._width - 2 * GAP) // self._bar
        first, count = (max(0, current - room * 3 // 4), room) if self._frames is None else (0, self._frames)
        share = self._entries[current].computed
        read = f", reads {_ranges(references)}" if references else ""
        title = (
            f"computed by the whole network: {share:.0%} of frame {current}{read}; {self._key_frames} key frames so far"
        )
        bars = self._bars(range(first, first + count), self._bar, current, references)
        return np.vstack([line(title, self._width, left=GAP), bars])

    def overview(self) -> np.ndarray:
        """`[·, ·, 3]` of all remembered frames, `ROW` in a row."""
        first, last = min(self._entries, default=0), max(self._entries, default=0)
        count = len(self._entries)
        keys = sum(entry.is_key for entry in self._entries.values())
        share = sum(entry.computed for entry in self._entries.values()) / max(count, 1)
        width = ROW * BAR + 2 * GAP
        text = f"frames {first} to {last}: {keys} key frames (yellow), {share:.0%} of all cells computed (height)"
        starts = range(first, last + 1, ROW)
        rows = [self._bars(range(s, min(s + ROW, last + 1)), BAR, None, (), width=width) for s in starts]
        return np.vstack([line(text, width, left=GAP), *rows])

    def _bars(
        self, frames: range, bar: int, current: int | None, references: Sequence[int], *, width: int | None = None
    ) -> np.ndarray:
        picture = np.full((BARS + MARKS + LINE, width or self._width, 3), PAPER, np.uint8)
        for frame in frames:
            left = GAP + (frame - frames.start) * bar
            right = left + bar - 1
            entry = self._entries.get(frame)
            picture[BARS - 1, left:right] = NONE
            if entry is not None:
                picture[:BARS, left:right] = NONE
                top = BARS - round(BARS * entry.computed)
                picture[top:BARS, left:right] = KEY if entry.is_key else PART
            if frame in references:
                picture[BARS + 1 : BARS + MARKS, left:right] = READ
            if frame == current:
                picture[: BARS + MARKS, left - 1] = picture[: BARS + MARKS, right] = INK
                picture[BARS + 1 : BARS + MARKS, left:right] = INK
        for frame in frames:
            if frame % _step(bar) == 0:
                self._number(picture, frame, GAP + (frame - frames.start) * bar)
        return picture

    def _number(self, picture: np.ndarray, frame: int, left: int) -> None:
        room = min(40, picture.shape[1] - left)
        if room > 8 * len(str(frame)) + 2:
            picture[BARS + MARKS :, left : left + room] = line(str(frame), room, ink=PALE)


def _step(bar: int) -> int:
    """Frames between two numbers, so that they do not run into each other."""
    return next(step for step in (5, 10, 20, 50) if step * bar >= 48)


def _ranges(frames: Sequence[int]) -> str:
    """ "2 to 5" or "2, 7"."""
    ordered = sorted(frames)
    return f"{ordered[0]} to {ordered[-1]}" if len(ordered) > 2 else ", ".join(map(str, ordered))
