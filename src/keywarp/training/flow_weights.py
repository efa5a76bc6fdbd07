"""Weights of flow networks: from `keywarp train-flow`, from within a trained model, or of PyTorch's FlowNetS port."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from keywarp.alignment.flownet import FLOW_NETWORKS, MEAN, FlowNet
from keywarp.errors import UserError
from keywarp.networks.weight_files import load_weights, read_state_dict

OWN = ("scale.", "quality.")
"""Parts of an aligner that no flow data can train."""

PORT_MEAN = (0.411, 0.432, 0.45)
"""What the port takes off its images 0…1."""


def load_flow(aligner: nn.Module | None, path: str | Path) -> None:
    """Fill the flow network of a model; its scale field and quality branch stay as they are.

    path: a file of `keywarp train-flow`, a keywarp model with such a flow network, or tensors by the names of PyTorch's
    FlowNetS port. Raises UserError that says what does not fit.
    """
    if not isinstance(aligner, FlowNet):
        raise UserError(f"this method has no flow network that {path} could fill; leave --init-flow out")
    state = read_state_dict(path)
    if "predict_flow6.weight" in state:
        state = _of_port(state)
    inner = {name.removeprefix("aligner."): t for name, t in state.items() if name.startswith("aligner.")}
    state = {name: t for name, t in (inner or state).items() if not name.startswith(OWN)}
    there, wanted = flow_network_of(state), flow_network_of(aligner.state_dict())
    if there is None:
        raise UserError(f"{path} holds no flow network; wanted one of {', '.join(FLOW_NETWORKS)}")
    if there != wanted:
        raise UserError(f"{path} holds a {there}, this model's flow network is {wanted}; give another file or network")
    load_weights(aligner, state, ignore=OWN)


def flow_network_of(state: Mapping[str, Tensor]) -> str | None:
    """The name in `FLOW_NETWORKS` of the network that has tensors of these names and shapes; None if none has."""
    shapes = {name: t.shape for name, t in state.items() if not name.startswith(OWN)}
    for name, build in FLOW_NETWORKS.items():
        with torch.device("meta"):
            network = build(scale_channels=None)
        if shapes == {key: t.shape for key, t in network.state_dict().items()}:
            return name
    return None


def _of_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names; biases that the port has not are zero, and the first takes in the difference of the two means."""
    names = {"conv1.0": "encoder.first", "conv2.0": "encoder.levels.0.0", "predict_flow2": "flow"}
    for n in range(4):
        names |= {
            f"conv{n + 3}.0": f"encoder.levels.{n + 1}.0.0",
            f"conv{n + 3}_1.0": f"encoder.levels.{n + 1}.1.0",
            f"predict_flow{6 - n}": f"decoder.flows.{n}",
            f"deconv{5 - n}.0": f"decoder.deconvolutions.{n}",
            f"upsampled_flow{6 - n}_to_{5 - n}": f"decoder.upsamplings.{n}",
        }
    renamed = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{kind}"] = tensor
    for layer in names.values():
        if (kernel := renamed.get(f"{layer}.weight")) is not None:
            outputs = kernel.shape[0] if "deconv" not in layer and "upsamp" not in layer else kernel.shape[1]
            renamed.setdefault(f"{layer}.bias", torch.zeros(outputs))
    if (first := renamed.get("encoder.first.weight")) is not None and first.shape[1] == 6:
        shift = (torch.tensor(PORT_MEAN) - torch.tensor(MEAN) / 255).repeat(2)
        renamed["encoder.first.bias"] = renamed["encoder.first.bias"] - first.sum((2, 3)) @ shift
    return renamed
