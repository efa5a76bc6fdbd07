"""Paths of boxes through a video's frames, and suppression within them: what Seq-NMS and Seq-NMS+ are made of.

Legend: M boxes of the video
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType

import numpy as np

from keywarp.errors import UserError
from keywarp.structures import VideoDetections


def paths(
    detections: VideoDetections, *, link_iou: float, smallest_sum: float, suppress_iou: float = math.inf
) -> np.ndarray:
    """`[M]`: the number of the path that each box belongs to, −1 for boxes that a path suppressed.

    For each class: boxes of adjacent frames are linked where they overlap by `link_iou` or more (a frame without
    boxes of the class breaks the links). The path of linked boxes with the highest sum of scores is taken out, then
    the next one, until no links are left or the sum is below `smallest_sum`; the boxes left then are paths of their
    own. A path suppresses the boxes of its class that overlap its own in their frame by `suppress_iou` or more.

    Of paths with equal sums the first wins: a box continues the first of the best boxes of the frame before, in the
    order of the rows; a path ends at the first box of the highest sum, by frame, then row. Sums are float64, added
    from a path's beginning. Raises UserError for scores below 0.
    """
    if (detections.scores < 0).any():
        raise UserError(f"scores must be at least 0 for paths to be chosen by sum, got {detections.scores.min()}")
    kernels = _kernels()
    path = np.empty(len(detections), np.int64)
    count = 0
    order = np.argsort(detections.labels, kind="stable")
    ends = np.flatnonzero(np.diff(detections.labels[order])) + 1
    for start, end in pairwise([0, *ends.tolist(), len(order)] if len(order) else []):
        rows = order[start:end]
        frames, boxes = detections.frames[rows], _columns(detections.boxes[rows])
        starts = _starts(frames[None])
        adjacent = np.diff(frames[starts[:-1]], prepend=frames[0]) == 1
        first, before = kernels.links(starts, adjacent, boxes, link_iou)
        scores = detections.scores[rows].astype(np.float64)
        found = kernels.best_paths(starts, boxes, scores, first, before, smallest_sum, suppress_iou).astype(np.int64)
        free = np.flatnonzero(found == kernels.FREE)
        found[free] = found.max(initial=-1) + 1 + np.arange(len(free))
        path[rows] = np.where(found >= 0, found + count, -1)
        count += found.max(initial=-1) + 1
    return path


def survivors(detections: VideoDetections, iou: float) -> np.ndarray:
    """`[M]` mask of the boxes that non-maximum suppression keeps: of those of a frame and class that overlap by more
    than `iou` the one with the highest score, of equal scores the first."""
    order = np.lexsort((-detections.scores, detections.frames, detections.labels))
    starts = _starts(np.stack([detections.labels[order], detections.frames[order]]))
    return ~_kernels().suppressed_in_groups(starts, _columns(detections.boxes), order, iou)


def check_overlaps(**thresholds: float) -> None:
    """Raise UserError for an overlap that is none."""
    for name, value in thresholds.items():
        if not 0 < value <= 1:
            raise UserError(f"{name} must be above 0 and at most 1, got {value}")


def _columns(boxes: np.ndarray) -> np.ndarray:
    """`[5, n]` float64: left, top, right, bottom, area."""
    left, top, right, bottom = boxes.T.astype(np.float64)
    return np.stack([left, top, right, bottom, (right - left) * (bottom - top)])


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where the groups of columns with equal `keys` begin, and the end. keys: `[any, n]`."""
    n = keys.shape[1]
    new = (np.diff(keys, axis=1) != 0).any(axis=0)
    return np.concatenate([[0], np.flatnonzero(new) + 1, [n]] if n else [[0]])


def _kernels() -> ModuleType:
    try:
        from keywarp.postprocess import kernels
    except ImportError:
        raise UserError("linking boxes through frames needs numba: pip install 'keywarp[postprocess]'") from None
    return kernels
