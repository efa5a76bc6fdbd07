"""The frames where most went wrong, to be looked at."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from keywarp.evaluation.matching import matches
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["Worst", "WorstFrames"]


@dataclass(frozen=True, order=True)
class Worst:
    """A frame. missed: objects that nothing found. wrong: detections that found nothing. video: its position."""

    errors: int
    video: int = field(compare=False)
    frame: int = field(compare=False)
    missed: int = field(compare=False)
    wrong: int = field(compare=False)
    detections: VideoDetections = field(compare=False, repr=False)


class WorstFrames:
    """Keeps the frames with the most errors, at most one of a video (its first).

    count: how many are kept. score, iou: a detection counts from this score on, and finds an object of its class from
    this IoU on.
    """

    def __init__(self, count: int = 12, *, score: float = 0.5, iou: float = 0.5) -> None:
        self.count = count
        self.score = score
        self.iou = iou
        self._heap: list[Worst] = []

    def add(self, video: int, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video."""
        shown = detections[(detections.scores >= self.score) & np.isin(detections.frames, truth.labelled)]
        taken = matches(shown, truth, self.iou)

        def by_frame(frames: np.ndarray) -> np.ndarray:
            return np.bincount(np.searchsorted(truth.labelled, frames), minlength=len(truth.labelled))

        found, wrong = by_frame(shown.frames[taken >= 0]), by_frame(shown.frames[taken < 0])
        objects = by_frame(truth.frames)
        errors = objects - found + wrong
        if not len(errors) or not errors.max():
            return
        at = int(errors.argmax())
        frame = int(truth.labelled[at])
        entry = Worst(
            int(errors[at]), video, frame, int(objects[at] - found[at]), int(wrong[at]), shown[shown.frames == frame]
        )
        (heapq.heappush if len(self._heap) < self.count else heapq.heappushpop)(self._heap, entry)

    def result(self) -> list[Worst]:
        """The worst first."""
        return sorted(self._heap, key=lambda worst: (-worst.errors, worst.video))
