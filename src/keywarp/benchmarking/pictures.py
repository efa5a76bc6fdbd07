"""The frames that a benchmark runs on: the beginning of a video, or a synthetic picture that moves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from keywarp.data.textures import texture
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.structures import VideoFrame

STEP = (2, 5)
"""Pixels, down and to the right, that the synthetic picture moves by from frame to frame."""
SIDES = (32, 8192)
"""Its shortest and longest side."""


@dataclass(frozen=True)
class Pictures:
    """A video, or a texture of `size` (height, width) that moves; exactly one of them."""

    video: str | None = None
    size: tuple[int, int] | None = None

    def read(self, count: int, motion: bool = False) -> list[VideoFrame]:
        """At most `count` frames, and at least one; with the codec's motion if wanted. Raises UserError without."""
        if self.size is not None:
            if motion:
                raise UserError("codec motion is read from a video file; give --video in place of --size")
            return list(moving_picture(self.size, count))
        assert self.video is not None
        with open_video(self.video, stop=count, motion=motion) as source:
            frames = list(source)
        if not frames:
            raise UserError(f"{self.video} has no frame that can be read; give another video")
        return frames


def pictures(video: str | None, size: str | None) -> Pictures:
    """What the user names. Raises UserError for both, for neither, and for a size that is none."""
    if (video is None) == (size is None):
        got = "neither" if video is None else "both"
        raise UserError(f"wanted a video or --size HxW, a synthetic moving picture; got {got}; give one of them")
    if size is None:
        return Pictures(video)
    match = re.fullmatch(r"(\d+)[x×](\d+)", size.strip().lower())
    sides = tuple(map(int, match.groups())) if match else (0, 0)
    if not SIDES[0] <= min(sides) <= max(sides) <= SIDES[1]:
        raise UserError(
            f"--size must be HxW, height and width of {SIDES[0]} to {SIDES[1]} pixels such as 600x1000, got {size!r}"
        )
    return Pictures(size=(sides[0], sides[1]))


def moving_picture(size: tuple[int, int], count: int) -> Iterator[VideoFrame]:
    """Frames of `size` (height, width): a texture that moves by `STEP` a frame and comes in again on the other side."""
    ground = texture(np.random.default_rng(0), (256, 256))[..., :3].astype(np.uint8)
    ground = cv2.resize(ground, size[::-1], interpolation=cv2.INTER_LINEAR)
    for t in range(count):
        yield VideoFrame(np.roll(ground, (STEP[0] * t, STEP[1] * t), axis=(0, 1)), index=t, time=t / 25)
