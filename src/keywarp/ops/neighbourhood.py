"""Attention to a neighbourhood: how alike a cell and the reference's cells around it are, and sums of those cells.

Legend: N frames · K = 1 or N references · C channels · (h, w) cells · P offsets of a neighbourhood
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

Offsets = tuple[tuple[int, int], ...]
"""P neighbours (dx, dy) in cells, from a cell of the current frame to the reference's."""


def sparse_offsets(d: int) -> Offsets:
    """The 1 + 8d cells of Φ: the cell itself, and eight around it at every distance up to d (002, Eq. 2 and 3).

    Eq. 3 prints (x + a, x + b); its second coordinate is y + b.
    """
    rings = ((a, b) for s in range(1, d + 1) for b in (-s, 0, s) for a in (-s, 0, s) if (a, b) != (0, 0))
    return ((0, 0), *rings)


def dense_offsets(d: int) -> Offsets:
    """All (2d + 1)² cells at most d away (002, section 4.3)."""
    return tuple((dx, dy) for dy in range(-d, d + 1) for dx in range(-d, d + 1))


def affinity(query: Tensor, reference: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Inner products of each cell with the reference's cells at the offsets (002, Eq. 1), `[N, P, h, w]`.

    query: `[N, C, h, w]`. reference: `[K, C, h, w]`; K = 1 serves all N frames. Where an offset leaves the map the
    product is -inf, so that a softmax leaves it out. Differentiable in both.

    Single precision at least, whatever the maps have: the exponential of a product of hundreds, rounded to eight bits,
    is noise. A row of the one times a row of the other is one matrix product, of which a few diagonals are wanted: at
    38 × 63 cells of 256 channels, 33 offsets, on one CPU thread 7 ms against 16 for a sum of products at each offset.
    """
    N, C, h, w = query.shape
    K = reference.shape[0]
    if reference.shape[1:] != (C, h, w) or K not in (1, N):
        raise ValueError(
            f"reference must be [K, {C}, {h}, {w}] with K = {N} or 1, one for all, got {list(reference.shape)}"
        )
    n = N // K
    wide = torch.promote_types(query.dtype, torch.float32)
    own = query.to(wide).unflatten(0, (K, n)).permute(3, 0, 1, 4, 2).reshape(h, K, n * w, C)
    theirs = reference.to(wide).permute(2, 0, 3, 1).contiguous()  # [h, K, w, C]
    out = own.new_full((N, len(offsets), h, w), -torch.inf)
    with _without_autocast(query.device.type):
        for dy in {dy for _, dy in offsets if abs(dy) < h}:
            top, bottom = _overlap(dy, h)
            products = own[top:bottom] @ theirs[top + dy : bottom + dy].mT  # [rows, K, n·w, w]
            products = products.unflatten(2, (n, w)).permute(1, 2, 0, 3, 4).flatten(0, 1)  # [N, rows, w, w]
            for p, (dx, row) in enumerate(offsets):
                if row == dy and abs(dx) < w:
                    left, right = _overlap(dx, w)
                    out[:, p, top:bottom, left:right] = products.diagonal(dx, -2, -1)
    return out


def gather_sum(features: Tensor, weights: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """For each cell the weighted sum of the features' cells at the offsets (002, Eq. 5), `[N, C, h, w]`.

    features: `[K, C, h, w]`; K = 1 serves all N frames. weights: `[N, P, h, w]`; those of offsets that leave the map
    count as zero. Differentiable in both.

    Computed as `ops.warp` is, by `embedding_bag`: 8 ms for 1024 channels and 33 offsets at 38 × 63 cells.
    """
    K, C, h, w = features.shape
    N, P = weights.shape[0], len(offsets)
    if weights.shape[1:] != (P, h, w) or K not in (1, N):
        raise ValueError(
            f"weights must be [N, {P}, {h}, {w}] for {P} offsets, with N = {K} or one reference for all, "
            f"got {list(weights.shape)} for features {list(features.shape)}"
        )
    dx, dy = torch.tensor(offsets, device=weights.device).unbind(1)
    x = torch.arange(w, device=weights.device).view(w, 1) + dx  # [w, P]
    y = torch.arange(h, device=weights.device).view(h, 1, 1) + dy  # [h, 1, P]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    first = torch.arange(K, device=weights.device).view(K, 1, 1, 1) * (h * w)  # a reference's first row
    rows = first + torch.where(inside, y * w + x, 0)  # [K, h, w, P]
    table = features.permute(0, 2, 3, 1).reshape(K * h * w, C)
    out = F.embedding_bag(
        rows.expand(N, h, w, P).reshape(-1, P),
        table,
        mode="sum",
        per_sample_weights=torch.where(inside, weights.permute(0, 2, 3, 1), 0).reshape(-1, P).to(table.dtype),
    )  # [N·h·w, C]
    return out.view(N, h, w, C).permute(0, 3, 1, 2)  # stays channels-last


def _overlap(d: int, size: int) -> tuple[int, int]:
    """The first position i, and the one behind the last, for which i + d is a position too."""
    return max(0, -d), size - max(0, d)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast would turn single precision back into half; devices without it (meta) refuse to have it disabled."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
