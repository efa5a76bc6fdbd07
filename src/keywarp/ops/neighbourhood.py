"""Attention to a neighbourhood: how alike a cell and the reference's cells around it are, and sums of those cells.

Legend: N frames · K = 1 or N references · C channels · (h, w) cells · P offsets of a neighbourhood
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from keywarp.ops.correlation import correlation

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
    is noise. All of the square around the neighbourhood is computed, as banded matrix products, and the wanted part
    kept: at 38 × 63 cells of 256 channels, d = 4, on one CPU thread 10 ms against 16 for a sum at each of 33 offsets.
    """
    C, h, w = query.shape[1:]
    d = max(max(abs(dx), abs(dy)) for dx, dy in offsets)
    wide = torch.promote_types(query.dtype, torch.float32)
    with _without_autocast(query.device.type):
        square = correlation(query.to(wide), reference.to(wide), displacement=d)
        wanted = [(dy + d) * (2 * d + 1) + dx + d for dx, dy in offsets]
        products = square[:, wanted] * C
    _, inside = _cells(offsets, h, w, query.device)
    return products.masked_fill(~inside, -torch.inf)


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
    cells, inside = _cells(offsets, h, w, weights.device)
    first = torch.arange(K, device=weights.device).view(K, 1, 1, 1) * (h * w)  # a reference's first row
    rows = (first + cells).expand(N, P, h, w)
    table = features.permute(0, 2, 3, 1).reshape(K * h * w, C)
    out = F.embedding_bag(
        rows.permute(0, 2, 3, 1).reshape(-1, P),
        table,
        mode="sum",
        per_sample_weights=torch.where(inside, weights, 0).permute(0, 2, 3, 1).reshape(-1, P).to(table.dtype),
    )  # [N·h·w, C]
    return out.view(N, h, w, C).permute(0, 3, 1, 2)  # stays channels-last


def _cells(offsets: Sequence[tuple[int, int]], h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the offsets lead from each cell, as rows of an `[h·w, …]` table, and whether onto the map; `[P, h, w]`.

    Off the map it is row 0.
    """
    dx, dy = torch.tensor(offsets, device=device).view(-1, 2, 1, 1).unbind(1)
    x = torch.arange(w, device=device) + dx  # [P, 1, w]
    y = torch.arange(h, device=device).view(h, 1) + dy  # [P, h, 1]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return torch.where(inside, y * w + x, 0), inside


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast would turn single precision back into half; devices without it (meta) refuse to have it disabled."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
