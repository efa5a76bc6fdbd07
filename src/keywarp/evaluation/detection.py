"""The agreement of two sets of detections."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.ops import box_iou

from keywarp.structures import Detections


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
