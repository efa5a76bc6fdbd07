"""Which detection finds which object: greedy by falling score, the rule that all measures of boxes here share.

Legend: M detections of a video · G its ground-truth boxes · P pairs of a detection and a box of the same frame
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keywarp.evaluation.motion import paired_iou
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["Pairs", "match", "matches", "pairs"]

AT_ONCE = 100_000
"""Pairs looked at together: few enough to stay in the processor's cache."""


class Pairs(NamedTuple):
    """All pairs of the detections in some frames with the objects there, of any class.

    rows: the span of the detections that these are. detection: `[P]` counted from its start, ascending. truth: `[P]`
    ascending for each detection. iou: `[P]` float64.
    """

    rows: slice
    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def pairs(detections: VideoDetections, truth: Truth, edge: float = 0.0) -> Iterator[Pairs]:
    """All pairs, in spans of whole frames that are of bounded size.

    edge: what is added to all widths and heights; 1 where coordinates are of the outermost pixels, both included.
    """
    grown = np.array([0.0, 0, edge, edge])
    first = np.searchsorted(truth.frames, detections.frames)
    count = np.searchsorted(truth.frames, detections.frames, side="right") - first
    for rows in _spans(detections.frames, count):
        many = count[rows]
        detection = np.repeat(np.arange(len(many)), many)
        within = np.arange(len(detection)) - np.repeat(many.cumsum() - many, many)
        objects = first[rows][detection] + within
        boxes = detections.boxes[rows] + grown
        yield Pairs(rows, detection, objects, paired_iou(boxes[detection], truth.boxes[objects] + grown))


def match(found: Pairs, allowed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each detection of the span the object that it finds, or −1.

    allowed: `[P]` pairs that can match. scores: of the span's detections. By falling score (equal ones in the order
    given) each takes the allowed object of highest IoU (the first of equals) that none before it has taken.
    """
    result = np.full(len(scores), -1)
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(scores), np.int64)
    rank[order] = np.arange(len(scores))
    keep = np.flatnonzero(allowed)
    keep = keep[np.lexsort((found.truth[keep], -found.iou[keep], rank[found.detection[keep]]))]
    detection, truth = found.detection[keep], found.truth[keep]
    # A detection whose favourite is wanted by none of higher score gets it, whatever the others do. In each round that
    # is the case at least for the highest score of every frame, so there are no more rounds than objects in a frame.
    while len(detection):
        favourite = np.diff(detection, prepend=-1) != 0
        highest = np.zeros(len(truth), bool)
        highest[np.unique(truth, return_index=True)[1]] = True
        sure = favourite & highest
        result[detection[sure]] = truth[sure]
        left = ~np.isin(truth, truth[sure]) & (result[detection] < 0)
        detection, truth = detection[left], truth[left]
    return result


def matches(detections: VideoDetections, truth: Truth, iou: float, *, any_class: bool = False) -> np.ndarray:
    """`[M]` for each detection the object that it finds with at least this IoU, or −1.

    any_class: whatever its label, else only an object of its class.
    """
    result = np.full(len(detections), -1)
    for found in pairs(detections, truth):
        alike = detections.labels[found.rows][found.detection] == truth.labels[found.truth]
        result[found.rows] = match(found, (alike | any_class) & (found.iou >= iou), detections.scores[found.rows])
    return result


def _spans(frames: np.ndarray, count: np.ndarray) -> Iterator[slice]:
    """Cuts rows into spans of whole frames with about AT_ONCE pairs. count: the pairs of each row."""
    if not len(frames):
        return
    ends = np.flatnonzero(np.diff(frames, append=-1)) + 1
    filled = np.maximum(count, 1).cumsum()[ends - 1] // AT_ONCE
    begin = 0
    for end in ends[np.diff(filled, append=-1) != 0].tolist():
        yield slice(begin, end)
        begin = end
