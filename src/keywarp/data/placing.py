"""Where the pictures of a converted data set are: named where they lie, linked to, or taken out of video files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from keywarp.data.datasets import Video
from keywarp.data.frames import ImageFrames

__all__ = ["Place", "frame_size"]

JPEG_QUALITY = 95
CHUNK = 32
"""Frames of a video file in memory at a time."""


@dataclass(frozen=True)
class Place:
    """The folder that a data set is written to. partial: its name until it is whole, beside it."""

    folder: Path
    partial: Path

    def name_of(self, path: Path) -> str:
        """A file elsewhere, as the data set names it: from its folder where both lie side by side, else in full."""
        path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.folder))
        return Path(os.path.relpath(path, folder) if path.is_relative_to(folder.parent) else path).as_posix()

    def put_images(
        self, video: Video, indices: Sequence[int], folder: Path, name: Callable[[int, str], str], suffix: str = ""
    ) -> list[Path]:
        """Frames as image files in a folder below `partial`; their paths.

        Images are linked to (copied where links are not to be had), frames of video files written as JPEG. name: of a
        file, by its place in `indices` and ending. suffix: the ending that a format wants, for JPEG files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        placed = []
        for start in range(0, len(indices), CHUNK):
            some = indices[start : start + CHUNK]
            linked = [_image_file(video, index, jpeg=bool(suffix)) for index in some]
            drawn = iter(video.frames.read([i for i, source in zip(some, linked, strict=True) if source is None]))
            for at, source in enumerate(linked, start):
                target = folder / name(at, suffix or (source.suffix if source else ".jpg"))
                placed.append(target)
                if source is None:
                    write_jpeg(target, next(drawn))
                else:
                    _link(source, target)
        return placed


def frame_size(video: Video) -> tuple[int, int]:
    """(H, W), by its first frame where it is not known. Raises UnreadableFrameError."""
    if video.size is not None:
        return video.size
    height, width = video.frames.read([0])[0].shape[:2]
    return height, width


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write an image `[H, W, 3]` uint8 RGB."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())


def _image_file(video: Video, index: int, *, jpeg: bool) -> Path | None:
    """The image file of a frame, if it has one of its own (and, where this is asked for, it is a JPEG)."""
    if not isinstance(video.frames, ImageFrames):
        return None
    path = video.frames.folder / video.frames.names[index]
    return path if path.suffix.lower() in (".jpg", ".jpeg") or not jpeg else None


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except FileExistsError:  # a copy would go through the link that is there
        raise
    except OSError:  # Windows allows links to few
        shutil.copy2(source, target)
