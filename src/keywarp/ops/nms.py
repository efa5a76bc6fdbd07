"""Non-maximum suppression that does not do more than is asked of it; the results are torchvision's.

Legend: R boxes · C classes
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.ops import nms as torchvision_nms

BLOCK = 1024


def nms(boxes: Tensor, scores: Tensor, threshold: float, keep: int) -> Tensor:
    """Positions of the best `keep` boxes that survive, by falling score: `torchvision.ops.nms(…)[:keep]`.

    Sorted once and done in blocks, it stops when enough are kept, most often after the first of several blocks.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for block in order.split(BLOCK):
        if len(kept):
            block = block[(box_iou(boxes[block], boxes[kept]) <= threshold).all(dim=1)]
        kept = torch.cat([kept, block[torchvision_nms(boxes[block], scores[block], threshold)]])
        if len(kept) >= keep:
            break
    return kept[:keep]


def multiclass_nms(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_threshold: float, keep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Box position, class and score of the best `keep` detections, by falling score.

    boxes: `[R, 4]`, the same for every class. scores: `[R, C]`; those above `score_threshold` take part. Boxes are
    suppressed within a class. All classes go together, rank by rank, over one matrix of overlaps.
    """
    R, C = scores.shape
    over = (box_iou(boxes, boxes) > nms_threshold).cpu().numpy()
    order = scores.argsort(dim=0, descending=True, stable=True).T.cpu().numpy()  # [C, R]
    alive = (scores > score_threshold).T.cpu().numpy()  # [C, R]
    classes = np.arange(C)
    kept = np.zeros((C, R), bool)
    for rank in range(int(alive.sum(axis=1).max(initial=0))):
        best = order[:, rank]
        stays = alive[classes, best]
        kept[classes, best] = stays
        alive &= ~(over[best] & stays[:, None])
    label, position = (torch.from_numpy(i).to(boxes.device) for i in np.nonzero(kept))
    score = scores[position, label]
    top = score.argsort(descending=True, stable=True)[:keep]
    return position[top], label[top], score[top]
