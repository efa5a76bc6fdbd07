"""A method's insides, frame by frame: panels in rows, and a strip over time under them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np

from keywarp.data.video import VideoSource
from keywarp.insight.layout import arranged
from keywarp.insight.observing import Observer
from keywarp.insight.painting import Painter
from keywarp.insight.strip import Strip
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import FrameResult, VideoFrame

LEAST_WIDTH = 2 * 384
"""Of a picture: the strip's line of text needs the room."""


class Picture(NamedTuple):
    """A frame's picture `[H, W, 3]` uint8 RGB, with the frame's number and time."""

    frame: int
    time: float
    image: np.ndarray


class Inside:
    """Pictures of a model at work on one video. A context manager. In memory are the predictor's latency of frames.

    kinds: those of `KINDS` that are shown. level: of the features, from the finest. threshold: smallest score drawn.
    batch: at most so many frames go through the networks together. key_frames: so far.
    """

    def __init__(
        self,
        model: VideoModel,
        video: VideoSource,
        kinds: Collection[str],
        *,
        level: int = 0,
        threshold: float = 0.5,
        batch: int = 1,
    ) -> None:
        self._observer = Observer(model, kinds, level=level)
        self._predictor = VideoPredictor(self._observer.model, batch=batch)
        self._painter = Painter(model, kinds, height=video.height, width=video.width, threshold=threshold)
        self._total = video.frame_count
        self._with_strip = "keys" in kinds
        self._strip: Strip | None = None
        self._waiting: deque[VideoFrame] = deque()
        self.key_frames = 0

    def __enter__(self) -> Self:
        self._observer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._observer.__exit__(*error)

    def push(self, frame: VideoFrame) -> Iterator[Picture]:
        """The pictures that are ready once the next frame has come."""
        self._waiting.append(frame)
        return self._pictures(self._predictor.push([frame]))

    def flush(self) -> Iterator[Picture]:
        """The remaining pictures, at the end of the video."""
        return self._pictures(self._predictor.flush())

    def overview(self) -> np.ndarray | None:
        """The strip of the whole video, if it was asked for."""
        return self._strip.overview() if self._strip is not None else None

    def _pictures(self, results: Iterable[FrameResult]) -> Iterator[Picture]:
        for result in results:
            frame, seen = self._waiting.popleft(), self._observer.next()
            self.key_frames += result.is_key
            sheet = arranged(self._painter.panels(frame, result, seen), LEAST_WIDTH)
            if self._with_strip:
                self._strip = self._strip or Strip(sheet.shape[1], self._total)
                shift = result.index - seen.frame  # the scheduler counts anew when the frames' size changes
                for each in (seen, *self._observer.known()):
                    self._strip.add(each.frame + shift, each.computed, each.whole)
                strip = self._strip.drawn(result.index, [j + shift for j in seen.references])
                sheet = np.vstack([sheet, strip])
            yield Picture(result.index, frame.time, sheet)
