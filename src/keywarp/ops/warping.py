"""The one warp (004, Eq. 1).

Legend: N frames · K = 1 or N references · C channels · (h, w) cells
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Features `[N, C, h, w]` fetched from where the flow points, bilinearly; zero outside the map.

    features: `[K, C, h, w]` of the references; K = 1 serves all N frames. flow: `[N, 2, h, w]`, (dx, dy) in feature
    cells, from the current frame to the reference; a flow that is not finite fetches zero. Zero flow is the identity
    and an integer shift is exact. Differentiable in both.

    Each output cell is a weighted sum of four rows of the reference's `[h·w, C]` table, which is what `embedding_bag`
    computes: on CPU 6 to 8 times faster than `grid_sample` (equal to 1e-6, see the test).
    """
    K, C, h, w = features.shape
    N = flow.shape[0]
    if flow.shape[1:] != (2, h, w) or K not in (1, N):
        raise ValueError(
            f"flow must be [N, 2, {h}, {w}] with N = {K} or one reference for all, "
            f"got {list(flow.shape)} for features {list(features.shape)}"
        )
    y, x = torch.meshgrid(torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij")
    # Fractional weights lose their meaning in half precision: positions are float32 at least.
    flow = flow.to(torch.promote_types(flow.dtype, torch.float32))
    first = torch.arange(N if K > 1 else 1, device=flow.device).view(-1, 1, 1) * (h * w)  # a reference's first row
    rows, weights = corners(flow[:, 0] + x, flow[:, 1] + y, (h, w), first)  # around p + δp
    table = features.permute(0, 2, 3, 1).reshape(K * h * w, C)
    out = F.embedding_bag(
        rows.view(-1, 4),
        table,
        mode="sum",
        per_sample_weights=weights.view(-1, 4).to(table.dtype),
    )  # [N·h·w, C]
    return out.view(N, h, w, C).permute(0, 3, 1, 2)  # stays channels-last


def corners(px: Tensor, py: Tensor, size: Sequence[int], first: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each position, as rows `[…, 4]` of a `[h·w, C]` table, and their weights G (004, Eq. 2).

    px, py: `[…]` in cells of a map of `size` (h, w). first: its first row in the table. Cells outside the map and
    positions that are not finite weigh zero.
    """
    h, w = size
    x0, y0 = px.detach().floor(), py.detach().floor()
    rows, weights = [], []
    for qy in (y0, y0 + 1):
        for qx in (x0, x0 + 1):
            inside = (qx >= 0) & (qx <= w - 1) & (qy >= 0) & (qy <= h - 1)  # False for NaN
            g = (1 - (px - qx).abs()) * (1 - (py - qy).abs())
            weights.append(torch.where(inside, g, 0))
            rows.append(torch.where(inside, first + qy * w + qx, first).long())
    return torch.stack(rows, -1), torch.stack(weights, -1)


def resize_flow(flow: Tensor, size: Sequence[int]) -> Tensor:
    """The flow `[N, 2, h, w]` on a grid of `size` (h', w') over the same image, its vectors in the new cells."""
    h, w = flow.shape[-2:]
    if (h, w) == tuple(size):
        return flow
    ratio = flow.new_tensor([size[1] / w, size[0] / h]).view(1, 2, 1, 1)
    return F.interpolate(flow, size=tuple(size), mode="bilinear", align_corners=False, antialias=size[0] < h) * ratio
