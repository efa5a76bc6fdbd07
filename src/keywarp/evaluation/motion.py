"""How fast objects move: motion IoU, by which ImageNet VID's results are split into slow, medium and fast.

Legend: M boxes of one video, of all its frames and tracks
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "FAST_BELOW",
    "SLOW_ABOVE",
    "WINDOW",
    "box_area",
    "motion_iou",
    "paired_iou",
    "speed_shares",
]

WINDOW = 10
"""Frames on either side that a box is compared with."""

SLOW_ABOVE, FAST_BELOW = 0.9, 0.7
"""Motion IoU of slow objects is above the one, of fast objects below the other; between them they are medium."""


def motion_iou(boxes: np.ndarray, frames: np.ndarray, tracks: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """`[M]` float64: the mean IoU of each box with its track's boxes at most `window` frames away (FGFA, section 5.1).

    boxes: `[M, 4]` xyxy. frames: `[M]` each box's frame. tracks: `[M]` its track, at most once in a frame.
    The box itself is not among those it is compared with: FGFA speaks of the nearby frames. Only frames that have the
    track count; a box without any has not been seen to move: 1. NaN where the track is negative, which means unknown.
    Frames without labels have no tracks: with every fifteenth labelled and a window of 10, all objects seem to rest.
    """
    order = np.lexsort((frames, tracks))
    boxes, frames, known = boxes[order].astype(np.float64), frames[order], tracks[order]
    total, count = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    for step in range(1, min(window, len(boxes) - 1) + 1):
        # In this order a track's boxes follow each other, so those near in time are near in the list.
        near = (known[step:] == known[:-step]) & (frames[step:] - frames[:-step] <= window)
        first = np.flatnonzero(near)
        iou = paired_iou(boxes[first], boxes[first + step])
        for side in (first, first + step):
            total[side] += iou
            count[side] += 1
    mean = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    result = np.empty(len(boxes))
    result[order] = np.where(known < 0, np.nan, mean)
    return result


def speed_shares(values: np.ndarray) -> dict[str, float]:
    """The shares of slow, medium and fast among these motion IoUs; all 0 where there are none."""
    known = values[~np.isnan(values)]
    slow, fast = known > SLOW_ABOVE, known < FAST_BELOW
    groups = {"slow": slow, "medium": ~slow & ~fast, "fast": fast}
    return {name: float(group.sum()) / max(len(known), 1) for name, group in groups.items()}


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[P]` for the pairs of `[P, 4]` and `[P, 4]`; 0 where both are empty, and for boxes with negative sides."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = box_area(a) + box_area(b) - overlap
    return overlap / np.where(union > 0, union, 1)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """`[P]` of `[P, 4]`."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
