"""Our networks against what the original authors' gave for the same seeded weights on two real frames."""

import re
import zlib

import numpy as np
import pytest
import torch

from keywarp.methods import dff
from keywarp.structures import Frame, Memory

# The authors' names, by ours.
FLOWNET = {
    "encoder.first": "flow_conv1",
    "encoder.levels.0.0": "conv2",
    **{f"encoder.levels.{n}.{m}.0": f"conv{n + 2}{'_1' * m}" for n in (1, 2, 3, 4) for m in (0, 1)},
    **{f"decoder.flows.{n}": f"Convolution{n + 1}" for n in range(4)},
    **{f"decoder.deconvolutions.{n}": f"deconv{5 - n}" for n in range(4)},
    **{f"decoder.upsamplings.{n}": f"upsample_flow{6 - n}to{5 - n}" for n in range(4)},
    "flow": "Convolution5",
    "scale": "Convolution5_scale",
}
HEAD = {
    "score_maps.rpn_cls": "rpn_cls_score",
    "score_maps.rpn_bbox": "rpn_bbox_pred",
    "score_maps.cls": "rfcn_cls",
    "score_maps.bbox": "rfcn_bbox",
}


def backbone_name(name):
    """The authors' name of a tensor of the backbone."""
    module, kind = name.rsplit(".", 1)
    if module == "conv1":
        return "conv1_weight"
    if module == "bn1":
        return f"bn_conv1_{kind}"
    if module.startswith("reduction"):
        return f"feat_conv_3x3_{kind}"
    stage, block, layer = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module).groups()
    counts = {"1": "abc", "2": 4, "3": 23, "4": "abc"}[stage]
    letter = counts[int(block)] if isinstance(counts, str) else ("a" if block == "0" else f"b{block}")
    branch = "branch1" if layer.startswith("downsample") else "branch2" + "abc"[int(layer[-1]) - 1]
    prefix = "bn" if layer.startswith("bn") or layer == "downsample.1" else "res"
    return f"{prefix}{int(stage) + 1}{letter}_{branch}_{kind}"


def seeded(name, shape):
    """A tensor drawn from its name, as the reference's README says."""
    r = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("_bias"):
        return np.ones(shape) if name == "Convolution5_scale_bias" else 0.01 * r.randn(*shape)
    up = "deconv" in name or "upsample" in name
    fan = shape[0] * shape[2] * shape[3] / 4 if up else shape[1] * shape[2] * shape[3]
    s = np.sqrt(2 / fan)
    if name.startswith(("rpn_", "rfcn_")):
        s = 0.02 if "bbox" in name else 0.3
    if name.startswith("Convolution5_scale"):
        s = 0.02
    if name == "conv1_weight":
        s /= 64
    if name == "Convolution5_weight":
        s /= 2
    return s * r.randn(*shape).astype(np.float32)


def batch_norm(name, kind, shape):
    if kind == "weight":
        return np.full(shape, 0.2 if "branch2c" in name else 1.0)
    return np.ones(shape) if kind == "running_var" else np.zeros(shape)


@pytest.fixture(scope="module")
def model():
    built = dff("resnet-101", stride_in_1x1=True).eval()
    for part, names in ((built.aligner, FLOWNET), (built.head, HEAD), (built.feature_network, None)):
        for ours, tensor in part.state_dict().items():
            module, kind = ours.rsplit(".", 1)
            if kind == "num_batches_tracked":
                continue
            theirs = backbone_name(ours) if names is None else f"{names[module]}_{kind}"
            values = batch_norm(theirs, kind, tensor.shape) if theirs.startswith("bn") else seeded(theirs, tensor.shape)
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    # The reference's images come with the means subtracted.
    built.feature_network.mean.zero_()
    built.aligner.mean.zero_()
    return built


@pytest.fixture
def reference(shared):
    return {name: torch.from_numpy(a) for name, a in np.load(shared / "reference/dff_ref.npz").items()}


def close(ours, theirs, tolerance):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=tolerance, rtol=0)


@torch.inference_mode()
def test_deep_feature_flow_gives_what_the_authors_networks_gave(model, reference):
    key, current = reference["data_key"], reference["data_cur"]
    (features,) = model.feature_network(key)
    close(features[:, :32], reference["key_feat_ch0_32"], 2e-5)

    memory = Memory(key, (features,), work=model.aligner.remember(Frame(key)))
    field = model.aligner(memory, Frame(current))
    close(field.flow, reference["flow"], 2e-6)
    close(field.scale[:, :8], reference["scale_map_ch0_8"], 2e-6)

    (scaled,) = field.propagate((features,))
    close((scaled / field.scale)[:, :32], reference["cur_warped_ch0_32"], 2e-5)

    scores, boxes, *_ = model.head.maps((scaled,))
    close(scores, reference["cur_rpn_cls_score"], 2e-4)
    close(boxes, reference["cur_rpn_bbox_pred"], 2e-4)
