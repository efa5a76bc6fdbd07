"""How steady detections are in time: whether they drop out, change their class, or shake.

Legend: G ground-truth boxes of a video · P pairs of an object's boxes in consecutive labelled frames
"""

from __future__ import annotations

import numpy as np

from keywarp.evaluation.delay import appearances
from keywarp.evaluation.matching import matches
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["Steadiness"]


class Steadiness:
    """Takes videos in one by one; only sums stay.

    Detections with a score of at least `score` find objects as `matching` says, with IoU at least `iou`: first those
    of the object's class; then what is left finds, whatever its class, the objects that are left. A pair is two
    labelled frames with no labelled one between, in both of which the track has a box; those before the track's first
    correct detection (of its class) are left out, as are objects without a track.

    Jitter: the error of a box is (Δx / w, Δy / h, Δw / w, Δh / h), centre and size of the detection less those of the
    object, w × h. The change of a pair is the length of the difference of its two errors, of the first two numbers
    (centre) and of the last two (size).
    """

    def __init__(self, *, score: float = 0.5, iou: float = 0.5) -> None:
        self.score = score
        self.iou = iou
        self._counts = np.zeros(4, np.int64)  # pairs, drop-outs, class changes, pairs that are found twice
        self._jitter = np.zeros(2)

    def add(self, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video."""
        detections = detections[detections.scores >= self.score]
        correct, found = self._found(detections, truth)
        before, after = _pairs(truth, correct)
        was, stays = found[before] >= 0, found[after] >= 0
        twice = was & stays
        first, second = found[before[twice]], found[after[twice]]
        changed = detections.labels[first] != detections.labels[second]
        self._counts += [len(before), (was & ~stays).sum(), changed.sum(), twice.sum()]
        change = _errors(detections.boxes[second], truth.boxes[after[twice]])
        change -= _errors(detections.boxes[first], truth.boxes[before[twice]])
        self._jitter += [np.hypot(*change[:, :2].T).sum(), np.hypot(*change[:, 2:].T).sum()]

    def result(self) -> dict[str, float]:
        """Of all videos so far; NaN where there are no pairs.

        "drop-outs": the share of the pairs in which the object is found only in the first frame. "class changes": in
        which it is found in both, as different classes. "fragmentation": their sum. "centre jitter", "size jitter":
        the mean over the pairs in which it is found in both.
        """
        pairs, drop_outs, changes, twice = self._counts.tolist()
        centre, size = (self._jitter / twice).tolist() if twice else (float("nan"), float("nan"))
        events = {"fragmentation": drop_outs + changes, "drop-outs": drop_outs, "class changes": changes}
        shares = {name: count / pairs if pairs else float("nan") for name, count in events.items()}
        return shares | {"centre jitter": centre, "size jitter": size}

    def _found(self, detections: VideoDetections, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
        """`[G]` which objects are found as what they are, and `[G]` the detection that finds each at all, or −1."""
        found = np.full(len(truth), -1)
        taken = matches(detections, truth, self.iou)
        found[taken[taken >= 0]] = np.flatnonzero(taken >= 0)
        correct = found >= 0
        free, missed = np.flatnonzero(taken < 0), np.flatnonzero(~correct)
        taken = matches(detections[free], truth[missed], self.iou, any_class=True)
        found[missed[taken[taken >= 0]]] = free[taken >= 0]
        return correct, found


def _pairs(truth: Truth, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[P]` and `[P]`: boxes of one track in consecutive labelled frames, from where it is first found on."""
    order = np.lexsort((truth.frames, truth.tracks))
    before, after = order[:-1], order[1:]
    place = np.searchsorted(truth.labelled, truth.frames)
    _, start = appearances(truth, np.flatnonzero(correct))
    follows = (truth.tracks[before] == truth.tracks[after]) & (place[after] == place[before] + 1)
    follows &= (truth.tracks[before] >= 0) & (start[before] >= 0) & (truth.frames[before] >= start[before])
    return before[follows], after[follows]


def _errors(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`[P, 4]` by how much boxes are off, relative to the objects' size: centre x and y, width, height."""
    found, there = boxes.astype(np.float64), truth.astype(np.float64)
    size = there[:, 2:] - there[:, :2]
    centre = (found[:, 2:] + found[:, :2] - there[:, 2:] - there[:, :2]) / 2
    return np.concatenate([centre / size, (found[:, 2:] - found[:, :2]) / size - 1], axis=1)
