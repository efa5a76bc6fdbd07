"""Non-maximum suppression that does not do more than is asked of it; the results are torchvision's.

Legend: R boxes · C classes
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou
from torchvision.ops import nms as torchvision_nms

from keywarp.structures import VideoDetections

BLOCK = 384


def nms(boxes: Tensor, scores: Tensor, threshold: float, keep: int) -> Tensor:
    """Positions of the best `keep` boxes that survive, by falling score: `torchvision.ops.nms(…)[:keep]`.

    Sorted once and done in blocks, it stops when enough are kept, most often after the first of several blocks.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for block in order.split(BLOCK):
        if len(kept):
            # Boxes without area overlap nothing: their IoU is NaN, which is not above the threshold either.
            block = block[~(box_iou(boxes[block], boxes[kept]) > threshold).any(dim=1)]
        kept = torch.cat([kept, block[torchvision_nms(boxes[block], scores[block], threshold)]])
        if len(kept) >= keep:
            break
    return kept[:keep]


def multiclass_nms(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_threshold: float, keep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Box position, class and score of the best `keep` detections, by falling score.

    boxes: `[R, 4]`, the same for every class. scores: `[R, C]`; those above `score_threshold` take part. Boxes are
    suppressed within a class.

    All classes go together by falling score, and it stops when enough are kept. One matrix of overlaps serves all
    classes; its rows are Python integers of R bits, so that suppressing what a box overlaps is one `or`.
    """
    R, C = scores.shape
    by_class = scores.T.flatten()  # [C·R]
    candidates = (by_class > score_threshold).nonzero()[:, 0]
    order = candidates[by_class[candidates].argsort(descending=True, stable=True)]
    if nms_threshold < 1:  # else no boxes overlap by more
        order = order[_best_kept(order.tolist(), boxes, C, nms_threshold, keep)]
    best = order[:keep]
    return best % max(R, 1), best // max(R, 1), by_class[best]


def _best_kept(order: list[int], boxes: Tensor, C: int, threshold: float, keep: int) -> list[int]:
    """Positions in `order` of the first `keep` candidates, c·R + box, that none before them suppresses."""
    R = len(boxes)
    over = np.packbits((box_iou(boxes, boxes) > threshold).cpu().numpy(), axis=1, bitorder="little")
    overlapped = [int.from_bytes(row.tobytes(), "little") for row in over]
    suppressed, kept = [0] * C, []
    for position, candidate in enumerate(order):
        c, i = divmod(candidate, R)
        if not suppressed[c] >> i & 1:
            kept.append(position)
            suppressed[c] |= overlapped[i]
            if len(kept) == keep:
                break
    return kept


def suppress_frames(detections: VideoDetections, *, threshold: float, keep: int) -> VideoDetections:
    """What survives suppression within the classes of each frame: at most its best `keep`, by falling score."""
    boxes, scores = torch.from_numpy(detections.boxes), torch.from_numpy(detections.scores)
    labels = torch.from_numpy(detections.labels)
    starts = np.flatnonzero(np.diff(detections.frames, prepend=-1))
    kept = [
        start + batched_nms(boxes[start:end], scores[start:end], labels[start:end], threshold)[:keep]
        for start, end in pairwise([*starts.tolist(), len(detections)])
    ]
    return detections[torch.cat(kept).numpy()] if kept else detections
