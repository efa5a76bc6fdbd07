"""How long it takes until an object is found: what key-frame methods pay when something new comes into view.

Legend: G ground-truth boxes of a video
"""

from __future__ import annotations

import numpy as np

from keywarp.evaluation.matching import matches
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["Delay", "appearances"]


class Delay:
    """Takes videos in one by one; a number for each tracked object stays.

    The delay of an object is the number of frames from its first labelled frame to its first correct detection: of its
    class, with a score of at least `score` and an IoU of at least `iou`, matched as `matching` says. Objects without a
    track are left out; one that leaves and comes back under the same track counts once. Where only some frames are
    labelled, the delay is known as coarsely.
    """

    def __init__(self, *, score: float = 0.5, iou: float = 0.5) -> None:
        self.score = score
        self.iou = iou
        self._delays = np.zeros(0, np.int64)  # −1: never found

    def add(self, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video."""
        taken = matches(detections[detections.scores >= self.score], truth, self.iou)
        first, start = appearances(truth, taken[taken >= 0])
        tracks, rows = np.unique(truth.tracks, return_index=True)
        rows = rows[tracks >= 0]
        self._delays = np.append(self._delays, np.where(start[rows] < 0, -1, start[rows] - first[rows]))

    def result(self) -> dict[str, float]:
        """Of all videos so far: "delay mean" and "delay median" over the objects that are found, and "never found", the
        share of those that are not; NaN where there are none."""
        found, nan = self._delays[self._delays >= 0], float("nan")
        return {
            "delay mean": float(found.mean()) if len(found) else nan,
            "delay median": float(np.median(found)) if len(found) else nan,
            "never found": 1 - len(found) / len(self._delays) if len(self._delays) else nan,
        }


def appearances(truth: Truth, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[G]` and `[G]`: the first frame of each box's track, and the first one in which it is found; −1 for never.

    found: positions of the boxes that are.
    """
    _, track = np.unique(truth.tracks, return_inverse=True)
    late = np.iinfo(np.int32).max
    first, start = np.full(len(truth), late), np.full(len(truth), late)
    np.minimum.at(first, track, truth.frames)
    np.minimum.at(start, track[found], truth.frames[found])
    start[start == late] = -1
    return first[track], start[track]
