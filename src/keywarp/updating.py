"""What a non-key frame adds of its own to the features carried to it.

Legend: N frames · C channels · (h, w) feature cells
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from keywarp.aggregation import Aggregator
from keywarp.alignment.correspondence import Correspondence
from keywarp.interfaces import FeatureNetwork
from keywarp.structures import Features, Frame, Memory


class Updater(nn.Module, ABC):
    """Updates propagated features with the frame's own."""

    @abstractmethod
    def forward(
        self,
        propagated: Features,
        current: Frame,
        reference: Memory,
        correspondence: Correspondence,
        feature_network: FeatureNetwork,
    ) -> tuple[Features, Tensor | None]:
        """The updated features, and the mask `[N, 1, h, w]` of what was computed anew, if any was.

        propagated: one map `[N, C, h, w]`, and behind it what an aggregator described of it, which holds no longer once
        the map is updated.
        """

    def key_features(self, feature_network: FeatureNetwork, image: Tensor) -> tuple[Features, Any]:
        """Features of a key frame's image `[N, 3, H, W]`, and what updates read of its layers (`Memory.layers`)."""
        return feature_network(image), None


class BlendUpdater(Updater):
    """Blends in the cheap features that the frame has of its own (002, section 3.4: DenseFT's Quality Net).

    They are the transform net's; the weights come from `aggregator`.
    """

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(
        self,
        propagated: Features,
        current: Frame,
        reference: Memory,
        correspondence: Correspondence,
        feature_network: FeatureNetwork,
    ) -> tuple[Features, Tensor | None]:
        assert current.features is not None, "blending needs a transform net"
        return self.aggregator([propagated, current.features], current.features), None
