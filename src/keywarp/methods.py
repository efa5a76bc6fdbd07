"""Each method as a composition of the parts: one builder a method; and `load`, which finds the weights for it.

rfcn   per frame (004, "Frame")
dff    Deep Feature Flow (004): key-frame features carried by a trained flow network and a scale field
sff    shallow feature flow (004, "SFF"): any trained detector, carried by a flow that needs no training
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keywarp.adapters import Parts
from keywarp.alignment.classical import DISFlow, RAFTFlow
from keywarp.alignment.codec import CodecMotion
from keywarp.alignment.correspondence import Aligner
from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.errors import UserError, unknown
from keywarp.heads.rfcn import RFCNHead, ScoreMaps
from keywarp.model import FeatureNetwork, TaskHead, VideoModel
from keywarp.networks.resnet import ResNet, for_inference
from keywarp.networks.weight_files import load_weights, read_description
from keywarp.scheduling import FixedInterval, Scheduler, SegmentCentre
from keywarp.structures import Detections, Features, Targets
from keywarp.transform import ImageTransform

BACKBONES: dict[str, dict[str, Any]] = {
    "resnet-18": {"depth": 18},
    "resnet-34": {"depth": 34},
    "resnet-50": {"depth": 50},
    "resnet-101": {"depth": 101},
    # For the demo and for tests: one block a stage, a quarter of the width.
    "resnet-tiny": {"depth": 10, "width": 16, "channels": 128},
}

FLOWS: dict[str, Callable[[], Aligner]] = {"dis": DISFlow, "codec": CodecMotion, "raft": RAFTFlow}
"""Flow sources that need no training of ours."""


def _scheduler(interval: int, key_position: int) -> Scheduler:
    return SegmentCentre(interval, key_position) if key_position else FixedInterval(interval)


def rfcn(
    backbone: str = "resnet-101",
    *,
    num_classes: int = 30,
    classes: Sequence[str] = (),
    deformable: int = 0,
    task_layers: int = 1,
    shorter: int = 600,
    longer: int = 1000,
    anchor_scales: Sequence[float] = (8, 16, 32),
    stride_in_1x1: bool = False,
) -> VideoModel:
    """R-FCN on every frame (004, section 4).

    backbone: of `BACKBONES`. deformable: 0, 3 or 6 deformable layers. task_layers: layers in the task network, 0, 1,
    5, 12 or 21 (004, Table 5). shorter, longer: input size in pixels. anchor_scales: in cells of 16 pixels.
    stride_in_1x1: the Caffe layout of the residual blocks. Weights are random until loaded.
    """
    arguments = {k: v for k, v in locals().items() if k != "classes"}
    feature_network, head = _detector(backbone, num_classes, deformable, task_layers, anchor_scales, stride_in_1x1)
    return VideoModel(
        feature_network,
        head,
        scheduler=FixedInterval(1),
        transform=ImageTransform(shorter, longer),
        classes=classes or [f"class {i}" for i in range(num_classes)],
        description={"method": "rfcn", "arguments": arguments},
    )


def dff(
    backbone: str = "resnet-101",
    *,
    flow: str = "flownet-s",
    interval: int = 10,
    key_position: int = 0,
    scale_field: bool = True,
    num_classes: int = 30,
    classes: Sequence[str] = (),
    deformable: int = 0,
    task_layers: int = 1,
    shorter: int = 600,
    longer: int = 1000,
    anchor_scales: Sequence[float] = (8, 16, 32),
    stride_in_1x1: bool = False,
) -> VideoModel:
    """Deep Feature Flow on R-FCN (004, Algorithm 1).

    flow: of `FLOW_NETWORKS`. interval: key frame duration l. key_position: the key frame's place in its segment.
    scale_field: modulate the warped features (Eq. 3). The rest as in `rfcn`.
    """
    arguments = {k: v for k, v in locals().items() if k != "classes"}
    if flow not in FLOW_NETWORKS:
        raise unknown("flow network", flow, FLOW_NETWORKS)
    feature_network, head = _detector(backbone, num_classes, deformable, task_layers, anchor_scales, stride_in_1x1)
    return VideoModel(
        feature_network,
        head,
        scheduler=_scheduler(interval, key_position),
        aligner=FLOW_NETWORKS[flow](scale_channels=feature_network.channels if scale_field else None),
        transform=ImageTransform(shorter, longer),
        classes=classes or [f"class {i}" for i in range(num_classes)],
        description={"method": "dff", "arguments": arguments},
    )


def wrap(
    detector: Parts | nn.Module | str | Path,
    *,
    flow: str = "dis",
    interval: int = 5,
    key_position: int | None = None,
) -> VideoModel:
    """Any trained detector or segmentation model, run on key frames and carried to the others (004, "SFF").

    detector: a torchvision detection or segmentation model, the path of an ONNX detector, or `Parts` of your own.
    flow: of `FLOWS`; nothing is trained, the scale field is one everywhere. interval 1 runs every frame.
    key_position: by default the middle of the segment, which halves the distances that features are carried over;
    0 answers live frames at once.
    """
    if flow not in FLOWS:
        raise unknown("flow source", flow, FLOWS)
    parts = _parts(detector)
    if key_position is None:
        key_position = interval // 2
    return VideoModel(
        parts.feature_network,
        parts.head,
        scheduler=_scheduler(interval, key_position),
        aligner=FLOWS[flow]() if interval > 1 else None,
        transform=parts.transform,
        classes=parts.classes,
        description={"method": "sff", "arguments": {"flow": flow, "interval": interval, "key_position": key_position}},
    )


METHODS: dict[str, Callable[..., VideoModel]] = {"rfcn": rfcn, "dff": dff, "sff": wrap}


def _parts(detector: Parts | nn.Module | str | Path) -> Parts:
    if isinstance(detector, Parts):
        return detector
    if isinstance(detector, nn.Module):
        from keywarp.adapters.torchvision_models import split_torchvision

        return split_torchvision(detector)
    from keywarp.adapters.yolox import yolox_parts

    return yolox_parts(Path(detector))


class _FeaturesWithMaps(FeatureNetwork):
    """A feature network whose features are the score maps themselves: nothing learnable is left for the task."""

    def __init__(self, body: FeatureNetwork, score_maps: ScoreMaps) -> None:
        super().__init__()
        self.body = body
        self.score_maps = score_maps
        self.channels = score_maps.channels

    def forward(self, image: Tensor) -> Features:
        return self.score_maps(self.body(image))


class _HeadWithTail(TaskHead):
    """A task head that begins with the last layers of the feature network."""

    def __init__(self, tail: nn.Module, head: RFCNHead) -> None:
        super().__init__()
        self.tail = tail
        self.head = head

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Sequence[Detections]:
        return self.head((self.tail(features[0]),), image_sizes)

    def maps(self, features: Features) -> Sequence[Tensor]:
        return self.head.maps((self.tail(features[0]),))

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        return self.head.loss((self.tail(features[0]),), image_sizes, targets)


def _detector(
    backbone: str,
    num_classes: int,
    deformable: int,
    task_layers: int,
    anchor_scales: Sequence[float],
    stride_in_1x1: bool,
) -> tuple[FeatureNetwork, TaskHead]:
    """The network N of 004, split into N_feat and N_task."""
    if backbone not in BACKBONES:
        raise unknown("backbone", backbone, BACKBONES)
    body = ResNet(**BACKBONES[backbone], deformable=deformable, stride_in_1x1=stride_in_1x1)
    head = RFCNHead(num_classes, channels=body.channels, anchor_scales=anchor_scales)
    if task_layers == 1:
        return body, head
    if task_layers == 0:
        return _FeaturesWithMaps(body, head.score_maps), head.dense
    trunk, tail = body.split(task_layers)
    return trunk, _HeadWithTail(tail, head)


def load(
    model: str | Path,
    *,
    method: str | None = None,
    backbone: str | None = None,
    flow: str | None = None,
    interval: int | None = None,
    key_position: int | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
    device: str = "auto",
    half: bool = False,
) -> VideoModel:
    """A model ready for inference, from a name or a file.

    model: "demo"; "yolox-nano" … "yolox-x" and "torchvision/NAME" (weights downloaded once); the path of an ONNX
    detector or of a keywarp `.safetensors` file; or "rfcn" / "dff" to build one from `weights`.
    method, backbone, flow, interval, key_position, num_classes: override what the model comes with.
    weights: a file; for "torchvision/NAME" also the name of a torchvision weights entry; "random" for speed tests.
    device: "auto" (CUDA where present), "cpu", "cuda", "cuda:1" … half: bfloat16 where it is safe, on CUDA.
    """
    options: dict[str, Any] = {"flow": flow, "interval": interval, "key_position": key_position}
    options = {name: value for name, value in options.items() if value is not None}
    name, place = str(model), _device(device)
    if method is not None and method not in METHODS:
        raise unknown("method", method, METHODS)
    if name.startswith(("torchvision/", "yolox-")) or name.endswith(".onnx"):
        if method not in (None, "sff"):
            raise UserError(f"{name} is a wrapped detector and runs with method sff, not {method}; leave --method out")
        built = wrap(_wrapped_parts(name, weights, place), **options)
    else:
        options |= {k: v for k, v in (("backbone", backbone), ("num_classes", num_classes)) if v is not None}
        built = _trained(name, method, weights, options)
    built.description = {"model": name} | built.description
    if half and place.type != "cuda":
        raise UserError(f"half precision needs a CUDA device, this one is {place.type}; leave --half out")
    ready = for_inference(built).to(place)
    ready.half_precision = half
    return ready


def _wrapped_parts(name: str, weights: str | None, device: torch.device) -> Parts:
    if name.startswith("torchvision/"):
        from keywarp.adapters.torchvision_models import torchvision_parts

        return torchvision_parts(
            name.removeprefix("torchvision/"), None if weights == "random" else weights or "DEFAULT"
        )
    from keywarp.adapters.yolox import yolox_parts
    from keywarp.networks.download import weights_path

    path = Path(weights or name) if weights or name.endswith(".onnx") else weights_path(name)
    providers = ("CUDAExecutionProvider",) if device.type == "cuda" else ("CPUExecutionProvider",)
    return yolox_parts(path, providers=providers)


def _trained(name: str, method: str | None, weights: str | None, options: dict[str, Any]) -> VideoModel:
    """A model of the papers: of a keywarp file (which holds its own recipe), or by method with weights beside it."""
    if name in ("rfcn", "dff"):
        if weights is None:
            raise UserError(
                f"{name} has no published weights: give --weights FILE, or --weights random for a speed test"
            )
        built = METHODS[method or name](**_fitting(method or name, options))
        if weights != "random":
            load_weights(built, weights)
        return built
    path = DEMO if name == "demo" else Path(name)
    if not path.suffix:
        raise unknown("model", name, known_models())
    if not path.exists():
        raise UserError(
            f"no model file {name}; give a file (.safetensors, .onnx) or a name: {', '.join(known_models())}"
        )
    recipe = read_description(path)
    method = method or recipe["method"]
    built = METHODS[method](**_fitting(method, recipe["arguments"] | {"classes": recipe["classes"]} | options))
    # A per-frame model takes what it needs of a video model's weights.
    load_weights(built, path, ignore=() if method == recipe["method"] else ("aligner.",))
    return built


def _fitting(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that the per-frame method has too, where it is chosen instead of a video method."""
    only_video = {"flow", "interval", "key_position", "scale_field"}
    return {k: v for k, v in options.items() if method != "rfcn" or k not in only_video}


DEMO = Path(__file__).parent / "assets" / "demo.safetensors"


def known_models() -> list[str]:
    """Names that `load` takes, besides files and the other torchvision models."""
    from keywarp.networks.download import YOLOX

    return ["demo", *YOLOX, "torchvision/fasterrcnn_mobilenet_v3_large_fpn", "rfcn", "dff"]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but no CUDA device is available here; use --device cpu")
    return device
