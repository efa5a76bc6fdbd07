"""Average precision of one class, and the agreement of two sets of detections.

Legend: M boxes of a frame · G ground-truth boxes of a frame
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torchvision.ops import box_iou

from keywarp.structures import Detections


def average_precision(detections: Sequence[Detections], truths: Sequence[Tensor], iou: float = 0.5) -> float:
    """Area under the monotone precision envelope over all recall points (VOC 2010), for one class.

    detections: of each frame, all of the class. truths: of each frame its boxes `[G, 4]` xyxy. By falling score, each
    detection takes the best overlapping box of its frame that is still free, if their overlap reaches `iou`.
    NaN when there is no ground truth.
    """
    total = sum(len(t) for t in truths)
    if not total:
        return float("nan")
    overlaps = [box_iou(d.boxes, t.to(d.boxes)).numpy() for d, t in zip(detections, truths, strict=True)]
    ranked = sorted(
        ((float(s), f, m) for f, d in enumerate(detections) for m, s in enumerate(d.scores)), key=lambda r: -r[0]
    )
    free = [np.ones(len(t), bool) for t in truths]
    hits = np.zeros(len(ranked))
    for rank, (_, f, m) in enumerate(ranked):
        row = np.where(free[f], overlaps[f][m], -1.0) if len(free[f]) else np.array([-1.0])
        best = int(row.argmax())
        if row[best] >= iou:
            free[f][best] = False
            hits[rank] = 1
    true = hits.cumsum()
    recall = np.concatenate([[0.0], true / total])
    precision = np.concatenate([true / np.arange(1, len(true) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1][: len(true)]
    return float((np.diff(recall) * envelope).sum())


def agreement(detections: Sequence[Detections], reference: Sequence[Detections], iou: float = 0.5) -> float:
    """Share of boxes that have a partner of the same class in the other set: 2 · matches / (boxes of both).

    Greedy by score within each frame. 1 when both sets are empty.
    """
    matches, boxes = 0, 0
    for ours, theirs in zip(detections, reference, strict=True):
        boxes += len(ours) + len(theirs)
        if not len(ours) or not len(theirs):
            continue
        overlap = box_iou(ours.boxes, theirs.boxes)
        overlap[ours.labels[:, None] != theirs.labels[None]] = 0
        for m in ours.scores.argsort(descending=True):
            best = int(overlap[m].argmax())
            if overlap[m, best] >= iou:
                matches += 1
                overlap[:, best] = 0
    return 2 * matches / boxes if boxes else 1.0


def of_class(detections: Detections, label: int, threshold: float = 0.0) -> Detections:
    """Those of one class whose score exceeds the threshold."""
    return detections[(detections.labels == label) & (detections.scores > threshold)]
