"""A model over annotated videos: what it finds, and the time that takes without reading them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from keywarp.data.datasets import UnreadableFrameError, Video
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.evaluation.results_files import relabelled
from keywarp.interfaces import with_parts
from keywarp.model import VideoModel
from keywarp.postprocess import apply
from keywarp.predictor import VideoPredictor
from keywarp.progress import Timer
from keywarp.structures import Detections, FrameResult, VideoDetections

LOWEST = 1e-3
"""Score of the boxes that post-processing over time starts from (FGFA's authors)."""


@dataclass(frozen=True)
class VideoRun:
    """What a model found in a video, with the model's labels.

    detections: as the head gives them. unsuppressed: those that post-processing over time starts from. seconds: of the
    model, without reading the video.
    """

    detections: VideoDetections
    unsuppressed: VideoDetections
    frames: int
    keys: int
    seconds: float

    def after(self, postprocess: str, labels: np.ndarray) -> VideoDetections:
        """What a post-processing makes of them, with the data set's labels (`class_map`)."""
        if postprocess == "none":
            return relabelled(self.detections, labels)
        return apply(postprocess, relabelled(self.unsuppressed, labels))


def detect_video(
    model: VideoModel,
    video: Video,
    batch: int,
    *,
    unsuppressed: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> VideoRun:
    """Run a detector over an annotated video.

    unsuppressed: also keep what the head has before its suppression, where it can tell; that is then done here, outside
    the seconds. Raises InterruptedWorkError where a frame cannot be read.
    """
    if unsuppressed:
        head, suppress = model.head.unsuppressed()
        model = with_parts(model, head=head)
    predictor, timer = VideoPredictor(model, batch=batch), Timer(clock)
    own: list[Detections] = []
    raw: list[Detections] = []
    keys = 0
    for result in results(predictor, video, timer):
        found = result.detections
        if found is None:
            raise UserError("the model gives label maps, the data set has boxes; give a detector")
        if unsuppressed:
            raw.append(found[found.scores >= LOWEST])
            (found,) = suppress(VideoDetections.of([found])).by_frame(1)
        own.append(found)
        keys += result.is_key
    return VideoRun(VideoDetections.of(own), VideoDetections.of(raw), len(own), keys, timer.seconds["model"])


def results(predictor: VideoPredictor, video: Video, timer: Timer) -> Iterator[FrameResult]:
    """The results of all its frames, one by one; the model's time goes to the timer's part "model"."""
    stream = video.frames.stream(motion=predictor.model.uses_codec_motion)
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
