"""Results of two models on the same video, side by side; the models run, or their results are read."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import cv2

from keywarp.data.video import VideoSource
from keywarp.errors import UserError
from keywarp.insight.inside import Picture
from keywarp.insight.layout import Panel, arranged, picture_size
from keywarp.insight.painting import kept, resized
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.sinks import Record, to_detections
from keywarp.structures import Detections, FrameResult, VideoFrame
from keywarp.visualize import draw

AREA = 640 * 360
"""Pixels of each side's picture."""


class Side(Protocol):
    """One of the two. name: what is compared. milliseconds: of work a frame so far, None where that is not known."""

    name: str

    @property
    def milliseconds(self) -> float | None: ...

    def push(self, frame: VideoFrame) -> Sequence[FrameResult]:
        """The results that are ready once the next frame has come."""

    def flush(self) -> Sequence[FrameResult]:
        """The remaining results."""


class Running:
    """A model that runs now. batch: at most so many frames go through its networks together. name: by default what
    the model tells of itself."""

    def __init__(self, model: VideoModel, *, batch: int = 1, name: str | None = None) -> None:
        known = model.description
        told = f"{Path(known.get('model', 'model')).name} ({known.get('method', '-')}), {model.scheduler}"
        self.name = name or told
        self._predictor = VideoPredictor(model, batch=batch)
        self._seconds, self._frames = 0.0, 0

    @property
    def milliseconds(self) -> float | None:
        return 1000 * self._seconds / self._frames if self._frames else None

    def push(self, frame: VideoFrame) -> Sequence[FrameResult]:
        self._frames += 1
        return self._timed(self._predictor.push, [frame])

    def flush(self) -> Sequence[FrameResult]:
        return self._timed(self._predictor.flush)

    def _timed(self, work: Any, *arguments: Any) -> Sequence[FrameResult]:
        began = time.perf_counter()
        results: Sequence[FrameResult] = work(*arguments)
        self._seconds += time.perf_counter() - began
        return results


@dataclass
class Stored:
    """What `detect` wrote about a video. size: (height, width) of it. results: by frame. frames, stride: as `detect`
    was told."""

    name: str
    milliseconds: float | None
    size: tuple[int, int]
    frames: str | None
    stride: int
    results: dict[int, FrameResult] = field(repr=False)

    def push(self, frame: VideoFrame) -> Sequence[FrameResult]:
        """The frame's result; none where the file has none."""
        nothing = FrameResult(frame.index, frame.time, False, Detections.empty())
        return [self.results.get(frame.index, nothing)]

    def flush(self) -> Sequence[FrameResult]:
        """Nothing is left."""
        return []

    def check(self, video: VideoSource) -> None:
        """Raise UserError when they cannot be of this video."""
        if (video.height, video.width) != self.size:
            height, width = self.size
            raise UserError(
                f"{self.name} is of a video of {width}×{height} pixels, {video.name} has {video.width}×{video.height}; "
                "give the video that `detect` was run on"
            )


def read_results(path: Path, name: str | None = None) -> Stored:
    """The results in a JSON file of `keywarp detect`. name: shown, in place of its own. Raises UserError."""
    try:
        document = json.loads(path.read_bytes())
        info, classes = document["info"], [category["name"] for category in document["categories"]]
        found: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            found[annotation["image_id"]].append(annotation)
        results = {
            image["id"]: FrameResult(
                image["id"],
                image["time"],
                image["key"],
                to_detections(Record(image_id=image["id"], time=0, key=False, detections=found[image["id"]])),
                classes=classes,
            )
            for image in document["images"]
        }
        spent = info["milliseconds_per_frame"]
        return Stored(
            f"{name or path.name}: {info['model']['model']} ({info['model'].get('method', '-')})",
            sum(spent.get(part, 0.0) for part in ("preprocess", "inference")) or None,
            (info["video"]["height"], info["video"]["width"]),
            info["settings"]["frames"],
            info["settings"]["stride"],
            results,
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give two JSON files of `keywarp detect`") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no results of `keywarp detect`; give two of its JSON files") from None


class Comparison:
    """Pictures of two sides on one video; in memory are the frames that one of them has no result of yet.

    key_frames: of both so far.
    """

    def __init__(self, sides: Sequence[Side], *, threshold: float = 0.5) -> None:
        self._sides = sides
        self._threshold = threshold
        self._ready: list[deque[FrameResult]] = [deque() for _ in sides]
        self._keys = [0] * len(sides)
        self._waiting: deque[VideoFrame] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def key_frames(self) -> int:
        return sum(self._keys)

    def push(self, frame: VideoFrame) -> Iterator[Picture]:
        """The pictures that are ready once the next frame has come."""
        self._waiting.append(frame)
        for ready, side in zip(self._ready, self._sides, strict=True):
            ready.extend(side.push(frame))
        return self._pictures()

    def flush(self) -> Iterator[Picture]:
        """The remaining pictures, at the end of the video."""
        for ready, side in zip(self._ready, self._sides, strict=True):
            ready.extend(side.flush())
        return self._pictures()

    def overview(self) -> None:
        """None: there is no strip."""

    def _pictures(self) -> Iterator[Picture]:
        while all(self._ready):
            frame = self._waiting.popleft()
            panels = [self._panel(n, frame, ready.popleft()) for n, ready in enumerate(self._ready)]
            yield Picture(frame.index, frame.time, arranged(panels))

    def _panel(self, n: int, frame: VideoFrame, result: FrameResult) -> Panel:
        self._keys[n] += result.is_key
        side = self._sides[n]
        spent = "" if side.milliseconds is None else f"  {side.milliseconds:.1f} ms a frame"
        title = f"{side.name}  frame {frame.index}, {frame.time:.2f} s{spent}  {self._keys[n]} key frames"
        height, width = frame.image.shape[:2]
        size = picture_size(height, width, AREA)
        small = cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_AREA)
        return Panel(title, draw(small, resized(kept(result, self._threshold), frame.image, size)))
