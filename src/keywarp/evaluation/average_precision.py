"""Average precision of ImageNet VID: for each class, of all objects and of slow, medium and fast ones.

Legend: M detections · G ground-truth boxes · P pairs of a detection and a box of its frame · R = 3 ranges of motion
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from keywarp.evaluation.matching import Pairs, match, pairs
from keywarp.evaluation.motion import FAST_BELOW, SLOW_ABOVE, box_area
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["RANGES", "APResult", "AveragePrecision"]

SPEEDS = {"slow": (SLOW_ABOVE, 1.0), "medium": (FAST_BELOW, SLOW_ABOVE), "fast": (0.0, FAST_BELOW)}
"""Motion IoU from … to, both included: an object on a limit belongs to both ranges, as in the authors' evaluation."""

RANGES = ("all", *SPEEDS)

SLACK = 10
"""By so many pixels ImageNet VID lets each side of a box be wrong before its overlap counts as too small."""


@dataclass(frozen=True)
class APResult:
    """Average precision in each of RANGES.

    by_class: name of a range → `[classes]`, NaN where a class has no object in it. mean: over the other classes; NaN
    where there are none. objects: `[classes]`, how many there are. hits: of each class, whether its detections found
    something, by falling score.
    """

    by_class: Mapping[str, np.ndarray]
    mean: Mapping[str, float]
    objects: np.ndarray
    hits: Sequence[np.ndarray] = field(repr=False)

    def curve(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision after each detection of a class by falling score, in the range "all".

        Recall is NaN for a class without objects.
        """
        true = self.hits[label].cumsum()
        recall = true / self.objects[label] if self.objects[label] else np.full(len(true), np.nan)
        return recall, true / np.arange(1, len(true) + 1)


class AveragePrecision:
    """Takes videos in one by one; of a detection, 18 bytes stay.

    classes: how many. threshold: the IoU that finds an object; "vid" is ImageNet VID's: for an object of w × h pixels
    min(0.5, w·h / ((w + 10)(h + 10))), lengths of all boxes with both outermost pixels (the "+ 1"). A number is a
    plain IoU for all objects, without the "+ 1".

    In each frame detections of a class take objects by falling score (`matching.match`), whatever the range. In a
    range of motion the detection of an object inside it is true; of one outside, it does not count. One that found
    nothing is compared with the objects of its frame of any class, taken or not: false if the one it overlaps most is
    inside the range, and it does not count if that is outside. Where inside and outside tie (both 0, mostly), it is
    that share of a false detection which the frame's objects outside the range are of all; in a frame without objects,
    the share of all objects that are inside, for which each such frame counts as an object of motion IoU 0; a box of
    negative area does not count. (FGFA's released evaluation. One expects the share inside in the first case too; all
    published figures have it so.) An object of unknown motion is in no range but "all".
    """

    def __init__(self, classes: int, *, threshold: float | Literal["vid"] = "vid") -> None:
        if threshold != "vid" and not 0 < float(threshold) <= 1:
            raise ValueError(f"threshold must be 'vid' or an IoU above 0 and up to 1, got {threshold!r}")
        self.classes = classes
        self.threshold = threshold
        self._objects = np.zeros((classes, len(RANGES)), np.int64)
        self._inside = np.zeros(len(SPEEDS), np.int64)  # of what `_total` counts: objects and frames without any
        self._total = 0
        self._columns: list[_Columns] = []

    def add(self, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video; detections in frames that are not labelled are left out.

        Raises ValueError for labels that are no classes.
        """
        for name, labels in (("detections", detections.labels), ("truth", truth.labels)):
            if len(labels) and labels.max() >= self.classes:
                raise ValueError(f"labels of {name} must be below {self.classes}, got {labels.max()}")
        inside = _inside(truth.motion)
        empty = np.zeros(len(truth.labelled) - len(np.unique(truth.frames)))
        self._inside += inside.sum(axis=0) + _inside(empty).sum(axis=0)
        self._total += len(truth) + len(empty)
        counted = np.concatenate([np.ones((len(truth), 1), bool), inside], axis=1)
        np.add.at(self._objects, truth.labels, counted)

        shares = _shares_outside(truth, inside)
        edge = 1.0 if self.threshold == "vid" else 0.0
        needed = _vid_thresholds(truth.boxes) if self.threshold == "vid" else np.full(len(truth), self.threshold)
        judged = detections[np.isin(detections.frames, truth.labelled)]
        for found in pairs(judged, truth, edge):
            labels, scores, boxes = (c[found.rows] for c in (judged.labels, judged.scores, judged.boxes))
            alike = labels[found.detection] == truth.labels[found.truth]
            taken = match(found, alike & (found.iou >= needed[found.truth]), scores)
            weights = _false_weights(found, len(labels), inside, shares)
            weights[box_area(boxes + np.array([0, 0, edge, edge])) < 0] = 0
            weights[taken >= 0] = inside[taken[taken >= 0]]
            small = np.min_scalar_type(self.classes)
            self._columns.append(_Columns(labels.astype(small), scores, taken >= 0, weights))

    def result(self) -> APResult:
        """Of all videos so far. Equal scores count in the order in which they were given."""
        columns = _Columns.joined(self._columns)
        self._columns = [columns]
        empty_weight = self._inside / max(self._total, 1)
        by_class = np.full((len(RANGES), self.classes), np.nan)
        hits = []
        by_label = np.argsort(columns.labels, kind="stable")
        ends = np.searchsorted(columns.labels, np.arange(self.classes + 1), sorter=by_label)
        for label, (begin, end) in enumerate(pairwise(ends.tolist())):
            rows = by_label[begin:end]
            rows = rows[np.argsort(-columns.scores[rows], kind="stable")]
            hit = columns.hits[rows]
            hits.append(hit)
            by_class[0, label] = _area(hit, ~hit, self._objects[label, 0])
            for r in range(len(SPEEDS)):
                weight = columns.weights[rows, r]
                weight[np.isnan(weight)] = empty_weight[r]
                by_class[r + 1, label] = _area(hit * weight, ~hit * weight, self._objects[label, r + 1])
        known = [values[~np.isnan(values)] for values in by_class]
        means = [float(values.mean()) if len(values) else float("nan") for values in known]
        return APResult(
            dict(zip(RANGES, by_class, strict=True)),
            dict(zip(RANGES, means, strict=True)),
            self._objects[:, 0].copy(),
            hits,
        )


@dataclass(frozen=True)
class _Columns:
    """What is kept of M detections.

    hits: whether they found an object. weights: `[M, R]`, how much they count in each range, as true if they hit and
    else as false; NaN in a frame without objects.
    """

    labels: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    weights: np.ndarray

    @staticmethod
    def joined(parts: Sequence[_Columns]) -> _Columns:
        none = _Columns(
            np.zeros(0, np.uint8), np.zeros(0, np.float32), np.zeros(0, bool), np.zeros((0, len(SPEEDS)), np.float32)
        )
        return _Columns(*(np.concatenate([getattr(p, name) for p in (none, *parts)]) for name in none.__dict__))


def _inside(motion: np.ndarray) -> np.ndarray:
    """`[G, R]`: which objects are in which range; none where the motion IoU is NaN."""
    return np.stack([(low <= motion) & (motion <= high) for low, high in SPEEDS.values()], axis=1)


def _vid_thresholds(boxes: np.ndarray) -> np.ndarray:
    """`[G]` the IoU that each object of ImageNet VID asks for."""
    width, height = (boxes[:, 2:].astype(np.float64) - boxes[:, :2] + 1).T
    return np.minimum(0.5, width * height / ((width + SLACK) * (height + SLACK)))


def _shares_outside(truth: Truth, inside: np.ndarray) -> np.ndarray:
    """`[G, R]`: of the objects of each one's frame, the share that is outside the range."""
    _, frame, count = np.unique(truth.frames, return_inverse=True, return_counts=True)
    outside = np.zeros((len(count), len(SPEEDS)))
    np.add.at(outside, frame, ~inside)
    return (outside / count[:, None])[frame]


def _false_weights(found: Pairs, count: int, inside: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """`[M, R]` float32: how much each of `count` detections counts as a false one; NaN in a frame without objects."""
    weights = np.full((count, len(SPEEDS)), np.nan, np.float32)
    starts = np.flatnonzero(np.diff(found.detection, prepend=-1))
    if not len(starts):
        return weights
    detection, some = found.detection[starts], found.truth[starts]
    for r in range(len(SPEEDS)):
        within = inside[found.truth, r]
        best = np.maximum.reduceat(np.where(within, found.iou, -1), starts)
        outside = np.maximum.reduceat(np.where(within, -1, found.iou), starts)
        weights[detection, r] = np.where(best == outside, shares[some, r], best > outside)
    return weights


def _area(true: np.ndarray, false: np.ndarray, objects: int) -> float:
    """Area under the monotone envelope of precision over recall, at all recall points; NaN without objects.

    true, false: `[M]` how much each detection counts as such, by falling score.
    """
    if not objects:
        return float("nan")
    hits, misses = true.cumsum(dtype=np.float64), false.cumsum(dtype=np.float64)
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((true * envelope).sum() / objects)
