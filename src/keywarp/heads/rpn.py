"""The region proposal network's anchors, proposals and losses (004, section 4; Faster R-CNN).

Legend: N images · A anchors a cell · (h, w) cells · M boxes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from keywarp.heads.boxes import decode, encode
from keywarp.ops.nms import nms

STDS = (0.1, 0.1, 0.4, 0.4)
"""The authors' code divides the targets of the proposals' offsets by these."""


def cell_anchors(scales: Sequence[float], ratios: Sequence[float], stride: int = 16) -> Tensor:
    """Anchors of the cell at the origin `[A, 4]`: ratios (height by width) outside, scales (in cells) inside.

    Widths and heights of the ratios are rounded at the size of one cell, as all code since Faster R-CNN does.
    """
    centre, anchors = stride / 2, []
    for ratio in ratios:
        width = round((stride * stride / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in scales:
            w, h = width * scale / 2, height * scale / 2
            anchors.append([centre - w, centre - h, centre + w, centre + h])
    return torch.tensor(anchors)


def all_anchors(base: Tensor, size: Sequence[int], stride: int = 16) -> Tensor:
    """Anchors of every cell of a map of `size` (h, w): `[h·w·A, 4]`, cell by cell."""
    y, x = torch.meshgrid(
        torch.arange(size[0], device=base.device), torch.arange(size[1], device=base.device), indexing="ij"
    )
    shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4) * stride
    return (base + shifts).view(-1, 4)


def flatten(scores: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `[N, h·w·A, 2]` (background, object) and offsets `[N, h·w·A, 4]` in the order of the anchors.

    scores: `[N, 2·A, h, w]`, first A backgrounds, then A objects. offsets: `[N, A·4, h, w]`.
    """
    N, A2, h, w = scores.shape
    logits = scores.view(N, 2, A2 // 2, h, w).permute(0, 3, 4, 2, 1).reshape(N, -1, 2)
    return logits, offsets.view(N, A2 // 2, 4, h, w).permute(0, 3, 4, 1, 2).reshape(N, -1, 4)


def propose(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int],
    *,
    before: int = 6000,
    after: int = 300,
) -> Tensor:
    """The proposals of one image, `[≤ after, 4]`: the best `before` by score, non-maximum suppression at IoU 0.7.

    logits: `[h·w·A, 2]`. offsets: `[h·w·A, 4]`.
    """
    scores = logits[:, 1] - logits[:, 0]  # orders like the softmax
    scores, top = scores.topk(min(before, len(scores)))
    boxes = clip_boxes_to_image(decode(offsets[top], anchors[top], STDS), image_size)
    return boxes[nms(boxes, scores, 0.7, after)]


def rpn_loss(
    logits: Tensor, offsets: Tensor, anchors: Tensor, image_size: tuple[int, int], boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Objectness and box losses of one image, on 256 sampled anchors that lie inside it, half of them objects at most.

    boxes: ground truth `[M, 4]`.
    """
    labels, matches = _assign(anchors, image_size, boxes)
    sampled = _sample(labels, total=256, objects=128)
    labels = torch.where(sampled, labels, -1)
    count = (labels >= 0).sum().clamp(min=1)
    objectness = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count
    objects = labels == 1
    targets = encode(boxes[matches[objects]], anchors[objects], STDS) if len(boxes) else offsets[:0]
    # Smooth L1 with sigma 1, normalised by the batch of anchors.
    return objectness, F.smooth_l1_loss(offsets[objects], targets, reduction="sum") / 256


def _assign(anchors: Tensor, image_size: tuple[int, int], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """For each anchor 1 (object), 0 (background) or −1 (neither), and its box.

    Object: IoU ≥ 0.7, or no anchor overlaps a box more. Background: IoU < 0.3. Anchors across the border: neither.
    """
    height, width = image_size
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    if not len(boxes):
        return torch.where(inside, 0, -1), torch.zeros_like(inside, dtype=torch.long)
    overlap = box_iou(anchors, boxes) * inside[:, None]
    best, matches = overlap.max(dim=1)
    labels = torch.full_like(matches, -1)
    labels[best < 0.3] = 0
    nearest = overlap.max(dim=0).values
    labels[((overlap == nearest) & (overlap > 0)).any(dim=1)] = 1
    labels[best >= 0.7] = 1
    return torch.where(inside, labels, -1), matches


def _sample(labels: Tensor, *, total: int, objects: int) -> Tensor:
    """Which anchors take part: a random choice of at most so many objects, the rest background."""
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    limit = objects
    for label in (1, 0):
        candidates = (labels == label).nonzero()[:, 0]
        picked = candidates[torch.randperm(len(candidates), device=labels.device)[:limit]]
        chosen[picked] = True
        limit = total - len(picked)
    return chosen
