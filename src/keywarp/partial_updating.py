"""Features of a non-key frame, recomputed where what was carried to it cannot be trusted (001, section 3.2).

Legend: N frames · K = 1 or N keys · C channels · (h, w) feature cells
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from keywarp.alignment.correspondence import Correspondence, FlowField
from keywarp.errors import UserError, unknown
from keywarp.interfaces import FeatureNetwork
from keywarp.networks.partial import Region, layers_of, run_layers, update_densely, update_sparsely
from keywarp.networks.resnet import ResNet
from keywarp.structures import Features, Frame, Memory
from keywarp.updating import Updater

Cache = Literal["blocks", "stages"]
CACHES: tuple[Cache, ...] = get_args(Cache)


class UpdateMask(torch.autograd.Function):
    """U = 1 where Q ≤ τ, else 0; its gradient is straight-through: dU/dQ = −1 where |Q − τ| ≤ 1, else 0."""

    @staticmethod
    def forward(ctx: Any, quality: Tensor, threshold: float) -> Tensor:
        """U of Q's shape and type."""
        ctx.save_for_backward((quality - threshold).abs() <= 1)
        return (quality <= threshold).to(quality.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """dL/dQ."""
        (near,) = ctx.saved_tensors
        return torch.where(near, -gradients[0], 0), None


class PartialUpdater(Updater):
    """Spatially-adaptive partial feature updating (001, Eq. 6): U ⊙ N_feat(I_i) + (1 − U) ⊙ the propagated features.

    threshold: τ; U = 1 where the quality that the aligner estimates is τ or less. The alignment must be a flow with a
    quality.

    In training the equation is computed as it stands; U is all 0 for a third of the frames, all 1 for a third
    (section 3.4). In evaluation the update goes layer by layer through a ResNet (`networks.partial` defines it). Of
    any other network the equation is computed as it stands too, from the whole frame's features: nothing is saved
    except in frames with U = 0 everywhere, and cache, sparse and break_even have no effect.

    cache: the layers. "blocks": every residual block is one, and the key frame keeps every block's input (ResNet-101 at
    600 × 1000: 486 MB). "stages": every stage is one, and it keeps the stages' inputs (97 MB), but much of conv4 is
    then recomputed around the active cells: a tenth of the area takes three times as long.
    sparse: compute only for the active cells; False computes every layer everywhere and mixes, the slow definition.
    break_even: a frame with a larger share of active cells is recomputed as a whole, U = 1; 1 = never. In part is
    slower above about 0.5 for ResNet-18 and 0.7 for ResNet-101 (docs/partial-updating.md).
    at_inference: False trains alike and updates nothing in evaluation (001's method c1).
    """

    def __init__(
        self,
        threshold: float = 0.0,
        cache: Cache = "blocks",
        sparse: bool = True,
        break_even: float = 0.55,
        at_inference: bool = True,
    ) -> None:
        super().__init__()
        if cache not in CACHES:
            raise unknown("cache", cache, CACHES)
        if not 0 <= break_even <= 1:
            raise UserError(f"break_even must be 0 to 1 (a share of the cells), got {break_even}")
        self.threshold, self.cache, self.sparse, self.break_even = threshold, cache, sparse, break_even
        self.at_inference = at_inference

    def key_features(self, feature_network: FeatureNetwork, image: Tensor) -> tuple[Features, Any]:
        """Features of a key frame's image `[K, 3, H, W]`; in evaluation also the maps that its layers read."""
        if self.training or not self.at_inference or not isinstance(feature_network, ResNet):
            return feature_network(image), None
        features, maps = run_layers(feature_network, image, self.cache)
        return (features,), maps

    def forward(
        self,
        propagated: Features,
        current: Frame,
        reference: Memory,
        correspondence: Correspondence,
        feature_network: FeatureNetwork,
    ) -> tuple[Features, Tensor | None]:
        if not self.training and not self.at_inference:
            return propagated, None
        carried = propagated[0]
        if correspondence.quality is None or not isinstance(correspondence, FlowField):
            raise UserError(
                "partial updating needs a flow with a quality (FlowNet's quality=True); the aligner gives none"
            )
        mask: Tensor = UpdateMask.apply(correspondence.quality, self.threshold)
        if self.training:
            mask = _forced(mask)
            return (_mixed(mask, carried, current.image, feature_network),), mask
        if not isinstance(feature_network, ResNet):
            poor = mask.flatten(1).any(dim=1).nonzero()[:, 0]
            features = carried.clone()
            if len(poor):
                features[poor] = _mixed(mask[poor], carried[poor], current.image[poor], feature_network)
            return (features,), mask
        share = mask.mean(dim=(1, 2, 3), dtype=torch.float32)
        mask = torch.where((share > self.break_even).view(-1, 1, 1, 1), 1, mask)
        return (self._updated(feature_network, mask, carried, current, reference, correspondence.flow),), mask

    def _updated(
        self, network: ResNet, mask: Tensor, carried: Tensor, current: Frame, reference: Memory, flow: Tensor
    ) -> Tensor:
        """The updated features; whole frames by the network itself, frames without active cells not at all."""
        assert reference.layers is not None, "the key frame was computed in training mode"
        share = mask.mean(dim=(1, 2, 3), dtype=torch.float32)
        whole, partly = (share == 1).nonzero()[:, 0], ((share > 0) & (share < 1)).nonzero()[:, 0]
        features = carried.clone()
        if len(whole):
            features[whole] = network(current.image[whole])[0].to(carried.dtype)
        if len(partly):
            maps = [x if len(x) == 1 else x[partly] for x in reference.layers]
            update = update_sparsely if self.sparse else update_densely
            layers, region = layers_of(network, self.cache), Region(mask[partly] > 0, flow[partly])
            features[partly] = update(network, layers, current.image[partly], maps, carried[partly], region)
        return features


def _mixed(mask: Tensor, carried: Tensor, image: Tensor, network: FeatureNetwork) -> Tensor:
    """Eq. 6 as it stands, from the features of the whole image."""
    (own,) = network(image)
    return (mask * own + (1 - mask) * carried).to(carried.dtype)


def _forced(mask: Tensor) -> Tensor:
    """The mask, all 0 for a third of the frames and all 1 for a third."""
    draw = torch.rand(len(mask), 1, 1, 1, device=mask.device)
    return torch.where(draw < 1 / 3, 0, torch.where(draw < 2 / 3, 1, mask))
