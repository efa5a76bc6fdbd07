"""Intersection over union of label maps."""

from __future__ import annotations

import numpy as np

UNKNOWN = 255
"""Pixels with this label do not count."""


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns), `[classes, classes]` int64.

    predicted, truth: `[H, W]` integers.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"label maps must be of one size, got {predicted.shape} and {truth.shape}")
    known = truth != UNKNOWN
    index = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def mean_iou(counts: np.ndarray) -> float:
    """The mean over the classes that occur, in the truth or in what was predicted; NaN when none does."""
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else float("nan")
