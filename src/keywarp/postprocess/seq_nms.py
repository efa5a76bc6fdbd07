"""Seq-NMS (Han et al., 2016) and Seq-NMS+ (Section 3.3 of the paper of IFF-Net), for anybody's boxes.

Legend: M boxes of the video · P paths
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from keywarp.errors import unknown
from keywarp.postprocess.linking import check_overlaps, paths, survivors
from keywarp.structures import VideoDetections

Rescore = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The new score of each path from the mean and the maximum of its boxes' scores, each `[P]`."""

RESCORES: dict[str, Rescore] = {"mean": lambda mean, top: mean, "max": lambda mean, top: top}


def seq_nms(
    detections: VideoDetections,
    *,
    link_iou: float = 0.5,
    nms_iou: float = 0.3,
    smallest_sum: float = 1e-2,
    rescore: str = "mean",
) -> VideoDetections:
    """The boxes that Seq-NMS keeps, by path rescored, with the path's number as track.

    Wants boxes before any suppression. Linked through adjacent frames (`linking.paths`), a path's boxes all get the
    mean or the maximum (`rescore`) of their scores, and suppress what overlaps them by `nms_iou` or more; what no
    path reached is suppressed within its frame at the end. Tracks count from 0 by first appearance, over all classes.
    Raises UserError for negative scores and for options out of range.
    """
    check_overlaps(link_iou=link_iou, nms_iou=nms_iou)
    if rescore not in RESCORES:
        raise unknown("rescoring", rescore, RESCORES)
    path = paths(detections, link_iou=link_iou, smallest_sum=smallest_sum, suppress_iou=nms_iou)
    found = rescored(detections, path, RESCORES[rescore])
    return numbered(found[survivors(found, nms_iou)])


def seq_nms_plus(
    detections: VideoDetections, *, link_iou: float = 0.5, nms_iou: float = 0.3, smallest_sum: float = 1e-2
) -> VideoDetections:
    """The boxes that Seq-NMS+ keeps, by path rescored, with the path's number as track.

    As `seq_nms`, but each frame's boxes are suppressed first, by more than `nms_iou`, and not along the paths, which
    is faster; a path's new score is half the mean and half the maximum.
    """
    check_overlaps(link_iou=link_iou, nms_iou=nms_iou)
    detections = detections[survivors(detections, nms_iou)]
    path = paths(detections, link_iou=link_iou, smallest_sum=smallest_sum)
    return numbered(rescored(detections, path, half_mean_half_max))


def half_mean_half_max(mean: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The rescoring of Seq-NMS+."""
    return 0.5 * mean + 0.5 * top


def rescored(detections: VideoDetections, path: np.ndarray, rescore: Rescore) -> VideoDetections:
    """The boxes that are on a path, with the path's score and its number as track. path: `[M]`, −1 for none."""
    detections, path = detections[path >= 0], path[path >= 0]
    tops = np.zeros(path.max(initial=-1) + 1)
    np.maximum.at(tops, path, detections.scores)
    lengths = np.bincount(path)
    means = np.bincount(path, detections.scores) / np.maximum(lengths, 1)
    return replace(detections, scores=rescore(means, tops)[path], tracks=path)


def numbered(detections: VideoDetections) -> VideoDetections:
    """The same with tracks counted from 0 by first appearance."""
    assert detections.tracks is not None
    _, first, track = np.unique(detections.tracks, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    return replace(detections, tracks=rank[track])
