"""The files of pictures: a video that plays, and PNGs of some of its frames."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from keywarp.data.video import VideoSource
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.files import write_atomically


class PictureFiles:
    """Writes NAME.mp4, and NAME-000012.png of chosen frames, into a folder. A context manager.

    pictures: the chosen frames' numbers. count: frames so far. saved: the PNGs so far. Raises UserError where
    NAME.mp4 or the folder cannot be written, or exists already and `overwrite` is not set; InterruptedWorkError when
    writing fails midway.
    """

    def __init__(
        self, folder: Path, name: str, source: VideoSource, *, pictures: Collection[int], overwrite: bool
    ) -> None:
        self.video = folder / f"{name}.mp4"
        self._folder, self._name = folder, name
        self._source = source
        self._pictures = pictures
        self._writer: VideoWriter | None = None
        self.count = 0
        self.saved: list[Path] = []
        if self.video.exists() and not overwrite:
            raise UserError(f"{self.video} exists; replace it with --overwrite, or choose another --output")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another --output") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)

    @property
    def warnings(self) -> list[str]:
        """What the video could not keep, one line each."""
        return self._writer.warnings if self._writer else []

    def add(self, frame: int, time: float, picture: np.ndarray) -> None:
        """Append a frame's picture `[H, W, 3]` uint8 RGB, shown at `time` seconds."""
        if self._writer is None:  # opened late: nothing is written when the first frame fails
            height, width = picture.shape[:2]
            self._writer = VideoWriter(
                self.video, width=width, height=height, fps=self._source.fps, source=self._source
            )
        self._writer.write(picture, time)
        self.count += 1
        if frame in self._pictures:
            self.save(f"{frame:06d}", picture)

    def save(self, ending: str, picture: np.ndarray) -> None:
        """Write NAME-`ending`.png."""
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "PNG")
        path = self._folder / f"{self._name}-{ending}.png"
        try:
            write_atomically(path, data.getvalue())
        except OSError as error:
            raise InterruptedWorkError(f"cannot write {path}: {error.strerror}; free some space") from None
        self.saved.append(path)
