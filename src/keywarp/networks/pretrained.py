"""Feature networks that start from what was learnt on ImageNet, or in another keywarp model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from keywarp.errors import UserError
from keywarp.interfaces import FeatureNetwork
from keywarp.networks.weight_files import load_weights, torchvision_state

COUNTER = "num_batches_tracked"
CLASSIFIERS = ("fc.", "classifier.", "features.18.")
"""What torchvision's networks have behind the features: their heads, and MobileNetV2's last 1×1."""


def load_backbone(network: FeatureNetwork, weights: str | Path) -> None:
    """Fill a ResNet or MobileNetV2 with weights; what ImageNet has no part in (reduction, offsets) may stay as it is.

    weights: "imagenet", torchvision's weights of that architecture (downloaded once; another of their names, such as
    "IMAGENET1K_V1", also does); or a file: a keywarp model with such a feature network, tensors by torchvision's
    names, or the same tensors in order by other names (not of .safetensors, which keeps no order).
    Raises UserError that says what does not fit.
    """
    body = next((m for m in network.modules() if isinstance(m, FeatureNetwork) and m.architecture), None)
    if body is None or body.architecture is None:
        raise UserError(f"a {type(network).__name__} takes no pre-trained backbone; take a resnet or mobilenet-v2")
    state = torchvision_state(body.architecture, "DEFAULT" if weights == "imagenet" else weights)
    of_model = {name.split(".", 1)[1]: t for name, t in state.items() if name.startswith("feature_network.")}
    state = {name.removeprefix("body."): t for name, t in of_model.items()} or state
    own = body.state_dict()
    new = [name for name in own if name.startswith("reduction.") or ".offset." in name]
    state = _by_order({name: t for name, t in own.items() if name not in new}, state)
    try:
        load_weights(body, state, ignore=(*CLASSIFIERS, *new))
    except UserError as error:
        raise UserError(f"{weights}: {error}") from None


def _by_order(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names, if they are ours in order (the file may go on); else unchanged.

    Kinds (weight, bias, running mean …) and shapes must agree, one by one.
    """
    ours = [(name, t) for name, t in own.items() if not name.endswith(COUNTER)]
    theirs = [(name, t) for name, t in state.items() if not name.endswith(COUNTER)]
    if any(name not in state for name, _ in ours):
        pairs = list(zip(ours, theirs, strict=False))
        if len(pairs) == len(ours) and all(_kind(a) == _kind(b) for a, b in pairs):
            return {name: t for (name, _), (_, t) in pairs}
    return state


def _kind(tensor: tuple[str, Tensor]) -> tuple[str, tuple[int, ...]]:
    name, values = tensor
    return name.rsplit(".", 1)[-1], tuple(values.shape)
