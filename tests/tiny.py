"""A tiny video model whose every value can be followed by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from keywarp.alignment.correspondence import Aligner, FlowField
from keywarp.model import FeatureNetwork, TaskHead, VideoModel
from keywarp.structures import Detections
from keywarp.transform import ImageTransform


class TinyFeatures(FeatureNetwork):
    """Two levels of pooled and mixed colours; counts the images it has seen."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 8, 3, padding=1)
        self.images = 0

    def forward(self, image):
        self.images += len(image)
        x = self.mix(image.float() / 255)
        return F.avg_pool2d(x, 4), F.avg_pool2d(x, 8)


class TinyFlow(Aligner):
    """A flow that depends on both images; its quality falls with their difference."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, reference, current):
        now = F.avg_pool2d(current.image.float() / 255, 4)
        then = F.avg_pool2d(reference.image.float() / 255, 4)
        difference = now - then
        return FlowField(self.scale * difference[:, :2] * 8, quality=0.1 - difference.abs().mean(1, keepdim=True))


class TinyHead(TaskHead):
    """One box a frame, at the strongest cell of the first level; its score is a sum over all of both levels."""

    def forward(self, features, image_sizes):
        results = []
        for fine, coarse, (height, width) in zip(*features, image_sizes, strict=True):
            flat = fine[0].flatten().argmax()
            y, x = flat // fine.shape[-1], flat % fine.shape[-1]
            box = torch.stack([x * 4.0, y * 4.0, (x + 1) * 4.0, (y + 1) * 4.0])
            box = box.clamp(max=max(height, width))
            score = torch.sigmoid(fine.mean() + coarse.std())
            results.append(Detections(box[None], score[None], torch.zeros(1, dtype=torch.long)))
        return results


def tiny_model(scheduler, aligner=None):
    torch.manual_seed(0)
    return VideoModel(
        TinyFeatures(),
        TinyHead(),
        scheduler=scheduler,
        aligner=aligner or TinyFlow(),
        transform=ImageTransform(size=(32, 48)),
        classes=("thing",),
    ).eval()
