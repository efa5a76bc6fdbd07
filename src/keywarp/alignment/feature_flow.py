"""Flow estimated from the detector's own features: the basic and the advanced module of IFF-Net (000, section 3.1).

Legend: N current frames · K = 1 or N references · C feature channels · E hidden channels · (h, w) feature cells
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.correspondence import Aligner, FlowField
from keywarp.ops.correlation import correlation
from keywarp.structures import Frame, Memory


class FeatureFlow(Aligner):
    """Flow from the current frame to the reference, in feature cells, from the features of both.

    What is computed of one frame alone, as current frame or as reference, is computed once and serves all its pairs
    (`remember`). It reads the first of a frame's feature maps.

    The paper leaves activations and the start out. Here a ReLU follows every convolution but the last of a sum and
    the sum, as in the residual blocks that it names as model. Hidden layers start by the variance of their inputs,
    the last one at N(0, 0.001²), a flow of a tenth of a cell: what is carried at first lies where it lay.
    """

    def forward(self, reference: Memory, current: Frame) -> FlowField:
        """Flow `[N, 2, h, w]`. The current frames' features must be known."""
        theirs, own = reference.work, current.work
        if theirs is None:
            theirs = self.remember(Frame(reference.image, features=reference.features))
        if own is None:
            own = self.remember(current)
        return FlowField(self.between(own, theirs))

    @abstractmethod
    def between(self, current: Any, reference: Any) -> Tensor:
        """Flow `[N, 2, h, w]` of what `remember` gave of N current frames and of K references."""


class BasicFeatureFlow(FeatureFlow):
    """Two convolutions on each frame, and one over both side by side (000, Figure 3)."""

    def __init__(self, channels: int = 1024, hidden: int = 512) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU()
        )
        self.flow = nn.Conv2d(2 * hidden, 2, 3, padding=1)
        _initialise(self)

    def remember(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """The frame's part in a flow: as the current frame and as the reference, `[N, 2, h, w]` each.

        A convolution over [current, reference] is the sum of one over each, so that is all a pair needs.
        """
        as_current, as_reference = self.flow.weight.chunk(2, dim=1)
        parts = F.conv2d(self.embed(_features(frame)), torch.cat([as_current, as_reference]), padding=1)
        current, reference = parts.chunk(2, dim=1)
        assert self.flow.bias is not None
        return current + self.flow.bias.view(1, 2, 1, 1), reference

    def between(self, current: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
        return current[0] + reference[1]


class Embedding(nn.Module):
    """1×1 and 3×3 convolutions, added to a 1×1 convolution beside them (000, Figure 5: EB-1 and EB-2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class AdvancedFeatureFlow(FeatureFlow):
    """Correlation of the two frames' embeddings, and more of the current frame's (000, Figure 4).

    relation: channels of what becomes of the correlation. displacement, stride: the correlation's, in feature cells.
    """

    def __init__(
        self, channels: int = 1024, hidden: int = 512, relation: int = 128, displacement: int = 10, stride: int = 2
    ) -> None:
        super().__init__()
        self.displacement, self.stride = displacement, stride
        self.embed = Embedding(channels, hidden)  # EB-1
        self.context = Embedding(hidden, relation)  # EB-2
        side = 2 * (displacement // stride) + 1
        self.relation = nn.Conv2d(side**2, relation, 3, padding=1)
        self.fuse = nn.Conv2d(relation, relation, 3, padding=1)
        self.flow = nn.Conv2d(relation, 2, 3, padding=1)
        _initialise(self)

    def remember(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """The frame's embedding `[N, E, h, w]` for the correlation, and its context as a current frame."""
        embedding = self.embed(_features(frame))
        return embedding, self.context(embedding)

    def between(self, current: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
        (own, context), (theirs, _) = current, reference
        related = correlation(own, theirs, displacement=self.displacement, stride=self.stride)  # Eq. 2
        return self.flow(F.relu(self.fuse(F.relu(self.relation(related)) + context)))


def _features(frame: Frame) -> Tensor:
    assert frame.features is not None, "feature flow needs the features of both frames"
    return frame.features[0]


def _initialise(module: FeatureFlow) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            if name == "flow":
                nn.init.normal_(layer.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
