"""The segmentation head of 004, section 4: one 1×1 convolution; the upsampling is fixed.

Legend: N images · C channels · K classes · (h, w) feature cells · (H, W) pixels of the network's input
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.errors import UserError
from keywarp.model import TaskHead
from keywarp.structures import Features, Targets

IGNORED = 255
"""The label of pixels that belong to no class, as in Cityscapes."""


class SegmentationHead(TaskHead):
    """Class scores at each feature cell, of features of `channels` channels, whether computed or propagated.

    num_classes: K, at most 255, a background class counted if there is one. The scores leave the head on the feature
    cells: `ImageTransform.restore_classes` upsamples them to the padded input as `loss` does, but frame by frame, so
    that the scores of a whole batch are never held in full size.
    """

    segments = True

    def __init__(self, num_classes: int, *, channels: int = 1024) -> None:
        super().__init__()
        if not 1 <= num_classes <= IGNORED:
            raise UserError(f"num_classes must be 1 to {IGNORED}, as label {IGNORED} is ignored, got {num_classes}")
        self.score = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Class scores `[N, K, h, w]`, before the softmax."""
        (scores,) = self.maps(features)
        return scores

    def maps(self, features: Features) -> tuple[Tensor, ...]:
        """The one score map."""
        (x,) = features
        return (self.score(x),)

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        """`segmentation`: the softmax cross-entropy, its mean over all pixels with a label; 0 if there are none.

        targets[n]["mask"]: `[H, W]` int64 in pixels of the network's padded input, 0 … K − 1, or 255 where no label is
        known and in the padding.
        """
        (maps,) = self.maps(features)
        masks = [target["mask"].to(maps.device) for target in targets]
        losses = []
        for scores, mask in zip(maps, masks, strict=True):
            if mask.ndim != 2:
                raise ValueError(f"mask must be [H, W], got {list(mask.shape)}")
            full = F.interpolate(scores[None].float(), size=mask.shape, mode="bilinear", align_corners=False)
            losses.append(F.cross_entropy(full, mask[None], ignore_index=IGNORED, reduction="sum"))
        labelled = torch.stack([(mask != IGNORED).sum() for mask in masks]).sum()
        return {"segmentation": torch.stack(losses).sum() / labelled.clamp(min=1)}
