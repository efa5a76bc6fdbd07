"""PSLA's Transform Net: cheap features of a non-key frame, from the lower layers of the feature network.

Legend: N frames · C channels · (h, w) feature cells
"""

from __future__ import annotations

from typing import cast

from torch import nn

from keywarp.structures import Features


class TransformNet(nn.Sequential):
    """Low-level features, encoded so that they resemble the features of the whole network (002, Figure 5).

    inputs: channels of the low-level features. channels: of the features to resemble. hidden: between them.

    It stands between what propagation asks of a frame's features and the lower layers, whose gradient so never comes
    from there directly (section 3.4): it is not cut off. The start, which the paper leaves out, keeps the variance of
    its input (He et al. 2015).
    """

    def __init__(self, inputs: int, channels: int, hidden: int = 256) -> None:
        super().__init__(
            nn.Conv2d(inputs, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(cast(nn.Parameter, layer.bias))

    def forward(self, features: Features) -> Features:
        """One map `[N, channels, h, w]` of one map `[N, inputs, h, w]`."""
        (level,) = features
        return (super().forward(level),)
