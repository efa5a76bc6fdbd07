"""Position-sensitive pooling of features, before the convolution that would make score maps of them.

Legend: N images · C channels · (h, w) cells · R regions · G bins along a side
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_bins(features: Tensor, regions: Tensor, *, scale: float, group: int = 7) -> tuple[Tensor, Tensor]:
    """The mean of the features in every bin of every region, `[R, G², C]`, and which bins hold a cell, `[R, G²]`.

    features: `[N, C, h, w]`. regions: `[R, 5]`, image index and xyxy in pixels. scale: cells a pixel. The bins are
    those of `torchvision.ops.ps_roi_pool`; an empty bin gives 0.

    Averaging commutes with a 1×1 convolution: scores of these means are the means of dense position-sensitive
    score maps, at a quarter of the time for a hundred maps a bin. Sums come from an integral image.
    """
    N, C, h, w = features.shape
    mean = features.float().mean(dim=(2, 3), keepdim=True)
    # Sums over the map are differences of large numbers: without the mean they are smaller and lose less.
    integral = _integral_image(features.float() - mean)
    x0, x1 = _edges(regions[:, 1], regions[:, 3], scale, group, w)  # [R, G]
    y0, y1 = _edges(regions[:, 2], regions[:, 4], scale, group, h)
    area = (y1 - y0).clamp(min=0)[:, :, None] * (x1 - x0).clamp(min=0)[:, None, :]  # [R, G, G]
    filled = area > 0
    image = regions[:, 0].long().view(-1, 1, 1)

    def corner(y: Tensor, x: Tensor) -> Tensor:
        return (image * (h + 1) + y[:, :, None]) * (w + 1) + x[:, None, :]

    corners = [corner(y1, x1), corner(y0, x1), corner(y1, x0), corner(y0, x0)]
    means = (N * (h + 1) * (w + 1) + image).expand_as(corners[0])  # the means stand behind the integral images
    rows = torch.stack([*corners, means], dim=-1)
    share = torch.where(filled, 1 / area.clamp(min=1), 0)
    weights = torch.stack([share, -share, -share, share, filled.to(share)], dim=-1)
    table = torch.cat([integral.reshape(-1, C), mean.view(N, C)])
    pooled = F.embedding_bag(rows.view(-1, 5), table, mode="sum", per_sample_weights=weights.view(-1, 5))
    return pooled.view(len(regions), group * group, C), filled.view(-1, group * group)


def holds_cells(boxes: Tensor, size: Sequence[int], *, scale: float) -> Tensor:
    """Which boxes `[R, 4]` have a bin that is not empty on a map of `size` (h, w): `[R]` bool.

    Those at the right and lower edge have none; their scores would be zero, which says "any class".
    """
    h, w = size
    start = _round(boxes[:, :2].float() * scale)
    return (start[:, 0] < w - 1) & (start[:, 1] < h - 1)


def _integral_image(features: Tensor) -> Tensor:
    """Sums over all cells above and left, `[N, h + 1, w + 1, C]`. Row by row: `cumsum` takes four times as long."""
    sums = F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 0, 1, 0))
    for axis in (1, 2):
        for i in range(1, sums.shape[axis]):
            sums.select(axis, i).add_(sums.select(axis, i - 1))
    return sums


def _round(x: Tensor) -> Tensor:
    """The nearest integers, halves away from zero as in C."""
    whole = x.trunc()
    return whole + x.sign() * ((x - whole).abs() >= 0.5)


def _edges(low: Tensor, high: Tensor, scale: float, group: int, size: int) -> tuple[Tensor, Tensor]:
    """First and past-the-last cell of each bin along one axis, `[R, G]` each."""
    start = _round(low.float() * scale)
    length = (_round(high.float() * scale) - start).clamp(min=1)
    bins = torch.arange(group, device=low.device)
    step = (length / group)[:, None]
    begin = (bins * step).floor() + start[:, None]
    end = ((bins + 1) * step).ceil() + start[:, None]
    return begin.clamp(0, size - 1).long(), end.clamp(0, size - 1).long()
