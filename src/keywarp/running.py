"""A model over annotated videos: what it finds, and the time that takes without reading them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from keywarp.data.datasets import UnreadableFrameError, Video
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.progress import Timer
from keywarp.structures import FrameResult, VideoDetections


class VideoRun(NamedTuple):
    """What a model found in a video, with the model's labels. seconds: of the model, without decoding."""

    detections: VideoDetections
    frames: int
    keys: int
    seconds: float


def detect_video(
    model: VideoModel, video: Video, batch: int, clock: Callable[[], float] = time.perf_counter
) -> VideoRun:
    """Run a detector over an annotated video. Raises InterruptedWorkError where a frame cannot be read."""
    predictor, timer = VideoPredictor(model, batch=batch), Timer(clock)
    found, keys = [], 0
    for result in results(predictor, video, timer):
        if result.detections is None:
            raise UserError("the model gives label maps, the data set has boxes; give a detector")
        found.append(result.detections)
        keys += result.is_key
    return VideoRun(VideoDetections.of(found), len(found), keys, timer.seconds["model"])


def results(predictor: VideoPredictor, video: Video, timer: Timer) -> Iterator[FrameResult]:
    """The results of all its frames, one by one; the model's time goes to the timer's part "model"."""
    stream = video.frames.stream(motion=bool(getattr(predictor.model.aligner, "uses_codec_motion", False)))
    try:
        while chunk := list(islice(stream, predictor.batch)):
            with timer("model"):
                results = predictor.push(chunk)
            yield from results
        with timer("model"):
            results = predictor.flush()
        yield from results
    except UnreadableFrameError as error:
        raise InterruptedWorkError(f"{video.name}: {error}; mend it, then go on with --resume") from None
