"""Boxes as offsets from anchors or proposals (Fast R-CNN), without the "+1" of older code.

Legend: M boxes, xyxy in pixels
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_GROWTH = math.log(1000 / 16)


def encode(boxes: Tensor, anchors: Tensor, stds: tuple[float, float, float, float]) -> Tensor:
    """(dx, dy, dw, dh) `[M, 4]` of boxes from anchors, divided by `stds`."""
    bx, by, bw, bh = _centres(boxes)
    ax, ay, aw, ah = _centres(anchors)
    offsets = torch.stack([(bx - ax) / aw, (by - ay) / ah, (bw / aw).log(), (bh / ah).log()], dim=1)
    return offsets / offsets.new_tensor(stds)


def decode(offsets: Tensor, anchors: Tensor, stds: tuple[float, float, float, float]) -> Tensor:
    """Boxes `[M, 4]` of offsets `[M, 4]`: the inverse of `encode`."""
    dx, dy, dw, dh = (offsets * offsets.new_tensor(stds)).unbind(1)
    ax, ay, aw, ah = _centres(anchors)
    x, y = ax + dx * aw, ay + dy * ah
    # exp() of an untrained network's output would overflow.
    w, h = aw * dw.clamp(max=LARGEST_GROWTH).exp(), ah * dh.clamp(max=LARGEST_GROWTH).exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x0, y0, x1, y1 = boxes.unbind(1)
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
