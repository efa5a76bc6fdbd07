"""The R-FCN head (Dai et al. 2016; 004, section 4): proposals from one half of the features, scores from the other.

Legend: N images · C classes · G = 7 bins along a side · A = 9 anchors a cell · (h, w) cells · R regions · M boxes
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image, ps_roi_pool, remove_small_boxes

from keywarp.heads.boxes import decode, encode
from keywarp.heads.rpn import all_anchors, cell_anchors, flatten, propose, rpn_loss
from keywarp.interfaces import Suppression, TaskHead, with_parts
from keywarp.ops.nms import multiclass_nms, suppress_frames
from keywarp.ops.psroi import holds_cells, pool_bins
from keywarp.structures import Detections, Features, Targets

STDS = (0.1, 0.1, 0.2, 0.2)
REGIONS = 128
"""Regions of an image that are trained on: the hardest (online hard example mining), or a random choice."""
OBJECTS = 32
"""So many of a random choice are objects at most."""
COPIES = 16
"""Moved copies of an image's true boxes that a random choice is made from too."""
BACKGROUND_WEIGHT = 0.1
"""Of a cell without object in the auxiliary loss."""


class ScoreMaps(nn.Module):
    """The learnable layer: four 1×1 convolutions. The first half of the features goes to the proposals.

    Channels: 2·A background and object scores, 4·A offsets of the proposals, G²·(C + 1) class scores (background
    first), G²·8 box offsets (class-agnostic: those of the background, which nobody reads, then those of objects).
    """

    def __init__(self, channels: int, num_classes: int, anchors: int, group: int) -> None:
        super().__init__()
        self.split_at = channels // 2
        self.sizes = (2 * anchors, 4 * anchors, group * group * (num_classes + 1), group * group * 8)
        self.rpn_cls, self.rpn_bbox = (nn.Conv2d(self.split_at, size, 1) for size in self.sizes[:2])
        self.cls, self.bbox = (nn.Conv2d(channels - self.split_at, size, 1) for size in self.sizes[2:])
        for conv in self.children():
            assert isinstance(conv, nn.Conv2d)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    @property
    def channels(self) -> int:
        """Channels of all four together."""
        return sum(self.sizes)

    def proposal_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first two maps of features `[N, channels, h, w]`."""
        return self.rpn_cls(x[:, : self.split_at]), self.rpn_bbox(x[:, : self.split_at])

    def forward(self, features: Features) -> Features:
        """All four maps as one, `[N, self.channels, h, w]`."""
        (x,) = features
        return (
            torch.cat(
                [*self.proposal_maps(x), self.cls(x[:, self.split_at :]), self.bbox(x[:, self.split_at :])], dim=1
            ),
        )


class ScoreMapsHead(TaskHead):
    """Detections from the four score maps, as one level; nothing is learnt here (the task network with 0 layers).

    proposals: of each image. score_threshold, nms_threshold, max_detections: of the results. anchor_scales: in cells.
    hard_examples: train on the hardest regions, as the papers do; else on a random choice, for which there are moved
    copies of the true boxes too, which starts faster.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        proposals: int = 300,
        score_threshold: float = 1e-4,
        nms_threshold: float = 0.3,
        max_detections: int = 300,
        stride: int = 16,
        group: int = 7,
        anchor_scales: Sequence[float] = (8, 16, 32),
        anchor_ratios: Sequence[float] = (0.5, 1, 2),
        hard_examples: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.hard_examples = hard_examples
        self.proposals = proposals
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.stride = stride
        self.group = group
        self.base_anchors: Tensor
        self.register_buffer("base_anchors", cell_anchors(anchor_scales, anchor_ratios, stride), persistent=False)

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """For each image its detections, in pixels of the network's input."""
        rpn_cls, rpn_bbox, cls, bbox = self.maps(features)
        regions = self.propose(rpn_cls, rpn_bbox, image_sizes)
        return self.detect(regions, *self._vote(cls, bbox, regions), image_sizes)

    def maps(self, features: Features) -> tuple[Tensor, ...]:
        """The four maps one by one."""
        return features[0].split(self.sizes, dim=1)

    def propose(self, scores: Tensor, offsets: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The proposals of each image, `[R, 4]`."""
        cells = scores.shape[-2:]
        anchors = all_anchors(self.base_anchors, cells, self.stride)
        images = zip(*flatten(scores.float(), offsets.float()), image_sizes, strict=True)
        found = [propose(logits, deltas, anchors, size, after=self.proposals) for logits, deltas, size in images]
        return [boxes[holds_cells(boxes, cells, scale=1 / self.stride)] for boxes in found]

    def _vote(self, cls: Tensor, bbox: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits `[ΣR, C + 1]` and offsets `[ΣR, 8]`: the mean over the bins of the pooled maps."""
        pooled = (ps_roi_pool(m.float(), regions, self.group, 1 / self.stride) for m in (cls, bbox))
        logits, offsets = (p.mean(dim=(2, 3)) for p in pooled)
        return logits, offsets

    def detect(
        self, regions: list[Tensor], logits: Tensor, offsets: Tensor, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """The detections of each image from the votes of its regions."""
        counts = [len(r) for r in regions]
        results = []
        for boxes, vote, delta, size in zip(
            regions, logits.split(counts), offsets.split(counts), image_sizes, strict=True
        ):
            boxes = clip_boxes_to_image(decode(delta[:, 4:], boxes, STDS), size)
            real = remove_small_boxes(boxes, 1.0)  # what lies outside the image is clipped to nothing
            boxes, vote = boxes[real], vote[real]
            position, label, score = multiclass_nms(
                boxes,
                vote.softmax(dim=1)[:, 1:],
                score_threshold=self.score_threshold,
                nms_threshold=self.nms_threshold,
                keep=self.max_detections,
            )
            results.append(Detections(boxes[position], score, label))
        return results

    def unsuppressed(self) -> tuple[TaskHead, Suppression]:
        raw = copy.copy(self)
        raw.nms_threshold, raw.max_detections = 1.0, sys.maxsize
        return raw, partial(suppress_frames, threshold=self.nms_threshold, keep=self.max_detections)

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        """Mean over the images of `rpn_objectness`, `rpn_box`, and on the chosen regions `cls` and `box`."""
        rpn_cls, rpn_bbox, cls, bbox = (m.float() for m in self.maps(features))
        anchors = all_anchors(self.base_anchors, rpn_cls.shape[-2:], self.stride)
        with torch.no_grad():
            proposals = self.propose(rpn_cls, rpn_bbox, image_sizes)
        # The ground truth takes part as proposals too.
        truths = [t["boxes"].to(p) for p, t in zip(proposals, targets, strict=True)]
        regions = [torch.cat(pair) for pair in zip(proposals, truths, strict=True)]
        if not self.hard_examples:
            near = [moved_copies(boxes, size) for boxes, size in zip(truths, image_sizes, strict=True)]
            near = [boxes[holds_cells(boxes, cls.shape[-2:], scale=1 / self.stride)] for boxes in near]
            regions = [torch.cat(pair) for pair in zip(regions, near, strict=True)]
        votes, offsets = self._vote(cls, bbox, regions)
        counts = [len(r) for r in regions]
        rows = []
        for logits, deltas, size, target, region, vote, offset in zip(
            *flatten(rpn_cls, rpn_bbox),
            image_sizes,
            targets,
            regions,
            votes.split(counts),
            offsets.split(counts),
            strict=True,
        ):
            truth, labels = target["boxes"].to(region), target["labels"].to(region.device)
            first = rpn_loss(logits, deltas, anchors, size, truth)
            second = region_loss(region, vote, offset[:, 4:], truth, labels, hardest=self.hard_examples)
            rows.append(torch.stack([*first, *second]))
        means = torch.stack(rows).mean(dim=0)
        return dict(zip(("rpn_objectness", "rpn_box", "cls", "box"), means, strict=True))


def region_loss(
    regions: Tensor, logits: Tensor, offsets: Tensor, truth: Tensor, labels: Tensor, *, hardest: bool = True
) -> tuple[Tensor, Tensor]:
    """Class and box loss of one image on `REGIONS` of its regions: those with the highest sum of both, or any.

    regions: `[R, 4]`. logits: `[R, C + 1]`. offsets: `[R, 4]`. truth: `[M, 4]` with labels `[M]`, 0-based. A region is
    an object when it overlaps one at IoU ≥ 0.5. No suppression among the hard examples.
    """
    wanted = torch.zeros(len(regions), dtype=torch.long, device=regions.device)  # 0 = background
    box_losses = offsets.new_zeros(len(regions))
    if len(truth):
        overlap, match = box_iou(regions, truth).max(dim=1)
        objects = overlap >= 0.5
        wanted[objects] = labels[match[objects]] + 1
        targets = encode(truth[match[objects]], regions[objects], STDS)
        each = F.smooth_l1_loss(offsets[objects], targets, reduction="none").sum(dim=1)
        box_losses = box_losses.index_put((objects.nonzero()[:, 0],), each)
    class_losses = F.cross_entropy(logits, wanted, reduction="none")
    if hardest:
        chosen = (class_losses + box_losses).detach().topk(min(REGIONS, len(regions))).indices
    else:
        chosen = _any(wanted > 0)
    return class_losses[chosen].sum() / max(len(chosen), 1), box_losses[chosen].sum() / REGIONS


def moved_copies(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """`[≤ COPIES, 4]`: boxes `[M, 4]`, each side moved at random by some 0.15 of their size, as far as IoU ≥ 0.5."""
    if not len(boxes):
        return boxes
    tries = boxes.repeat(-(-4 * COPIES // len(boxes)), 1)
    size = (tries[:, 2:] - tries[:, :2]).repeat(1, 2)
    tries = clip_boxes_to_image(tries + 0.15 * size * torch.randn_like(tries), image_size)
    return tries[box_iou(tries, boxes).amax(dim=1) >= 0.5][:COPIES]


def cell_labels(boxes: Tensor, labels: Tensor, cells: Sequence[int], stride: int) -> Tensor:
    """`[h, w]`: 1 + the label of the smallest box that each cell's centre lies in, 0 outside all.

    boxes: `[M, 4]` with labels `[M]`. cells: (h, w).
    """
    y, x = ((torch.arange(n, device=boxes.device) + 0.5) * stride for n in cells)
    x1, y1, x2, y2 = boxes.T[..., None, None]
    inside = (x1 < x) & (x < x2) & (y1 < y[:, None]) & (y[:, None] < y2)  # [M, h, w]
    area = ((x2 - x1) * (y2 - y1)).where(inside, torch.inf)
    nothing = torch.full((1, *cells), torch.finfo(area.dtype).max, device=boxes.device)
    return F.pad(labels.to(boxes.device) + 1, (1, 0))[torch.cat([nothing, area]).argmin(dim=0)]


def _any(objects: Tensor) -> Tensor:
    """Positions of a random choice of regions: at most `OBJECTS` that are objects, the rest background."""
    order = torch.randperm(len(objects), device=objects.device)
    ours = order[objects[order]][:OBJECTS]
    return torch.cat([ours, order[~objects[order]][: REGIONS - len(ours)]])


class RFCNHead(TaskHead):
    """The R-FCN head on features of `channels` channels; the options are those of `ScoreMapsHead`.

    num_classes: without background. auxiliary: while training, a 1×1 convolution names the object at every cell, with a
    loss of its own, from which a small feature network learns classes sooner.

    At inference the class scores are computed lazily: the features are pooled first, in every bin, and scored then
    (`lazy`; the same result in a quarter of the time). Training uses the dense maps.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 1024,
        group: int = 7,
        anchor_scales: Sequence[float] = (8, 16, 32),
        anchor_ratios: Sequence[float] = (0.5, 1, 2),
        auxiliary: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.score_maps = ScoreMaps(channels, num_classes, len(anchor_scales) * len(anchor_ratios), group)
        self.dense = ScoreMapsHead(
            self.score_maps.sizes,
            group=group,
            anchor_scales=anchor_scales,
            anchor_ratios=anchor_ratios,
            **options,
        )
        self.auxiliary = nn.Conv2d(channels, num_classes + 1, 1) if auxiliary else None
        self.lazy = True

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """For each image its detections, in pixels of the network's input."""
        if not self.lazy:
            return self.dense(self.score_maps(features), image_sizes)
        (x,) = features
        regions = self.dense.propose(*self.score_maps.proposal_maps(x), image_sizes)
        return self.dense.detect(regions, *self._lazy_vote(x[:, self.score_maps.split_at :], regions), image_sizes)

    def _lazy_vote(self, x: Tensor, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoreMapsHead._vote`, from features `[N, C', h, w]`: a bin's mean score is the score of its mean."""
        group = self.dense.group
        indexed = torch.cat([F.pad(r, (1, 0), value=n) for n, r in enumerate(regions)])
        pooled, filled = pool_bins(x, indexed, scale=1 / self.dense.stride, group=group)  # [R, G², C'], [R, G²]
        bins, convs = group**2, (self.score_maps.cls, self.score_maps.bbox)
        # Channel (c·G + row)·G + column scores class c in that bin, so a class's weights lie together.
        weight = torch.cat([conv.weight for conv in convs]).float().reshape(-1, bins * x.shape[1])
        bias = torch.cat([conv.bias for conv in convs]).float().view(-1, bins)  # type: ignore[misc]
        votes = (F.linear(pooled.flatten(1), weight) + F.linear(filled.float(), bias)) / bins  # [R, C + 1 + 8]
        return votes[:, :-8], votes[:, -8:]

    def maps(self, features: Features) -> tuple[Tensor, ...]:
        """The four dense score maps."""
        return self.dense.maps(self.score_maps(features))

    def unsuppressed(self) -> tuple[TaskHead, Suppression]:
        dense, suppression = self.dense.unsuppressed()
        return with_parts(self, dense=dense), suppression

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        """See `ScoreMapsHead.loss`; with an auxiliary head also `auxiliary`, the cells' mean cross-entropy."""
        losses = self.dense.loss(self.score_maps(features), image_sizes, targets)
        if self.auxiliary is not None:
            logits = self.auxiliary(features[0]).float()
            each = [cell_labels(t["boxes"], t["labels"], logits.shape[-2:], self.dense.stride) for t in targets]
            weight = torch.ones(logits.shape[1], device=logits.device)
            weight[0] = BACKGROUND_WEIGHT
            losses["auxiliary"] = F.cross_entropy(logits, torch.stack(each).to(logits.device), weight)
        return losses
