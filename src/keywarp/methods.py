"""Each method as a composition of the parts: a builder a family, and `METHODS`, one entry a row of the papers' tables.

rfcn         per frame (004, "Frame")
dff          Deep Feature Flow (004): key-frame features carried by a trained flow network and a scale field
fgfa         flow-guided feature aggregation: every frame gathers from a window around it; OptFlow-A and -B of 000
thp          Towards High Performance Video Object Detection (001): recursion, partial updating, adaptive key frames
impression   Impression Network (003): key frames absorbed into an impression feature
psla         progressive sparse local attention (002) and its rivals
iff          IFF-Net (000): FGFA with feature flow estimated inside the network
wrap         shallow feature flow (004, "SFF"): any trained detector, carried by a flow that needs no training
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypedDict, Unpack

from torch import nn

from keywarp.adapters import Parts
from keywarp.aggregation import CosineAggregator, EqualAggregator, JointQualityAggregator, QualityAggregator
from keywarp.alignment.attention import PSLA, DensePSLA, MatchTrans, Nonlocal
from keywarp.alignment.classical import DISFlow, RAFTFlow
from keywarp.alignment.codec import CodecMotion
from keywarp.alignment.correspondence import Aligner
from keywarp.alignment.feature_flow import AdvancedFeatureFlow, BasicFeatureFlow
from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.errors import UserError, unknown
from keywarp.heads.rfcn import RFCNHead
from keywarp.heads.segmentation import SegmentationHead
from keywarp.heads.task_split import FeaturesWithMaps, HeadWithTail
from keywarp.losses import transformation_residual, update_area
from keywarp.model import FeatureNetwork, TaskHead, VideoModel
from keywarp.networks.mobilenet import MobileNetV2
from keywarp.networks.resnet import ResNet
from keywarp.networks.transform_net import TransformNet
from keywarp.partial_updating import PartialUpdater
from keywarp.plans import SINGLE, pair, triplet, window
from keywarp.scheduling import AdaptiveInterval, FixedInterval, Scheduler, SegmentCentre, SlidingWindow
from keywarp.transform import ImageTransform
from keywarp.updating import BlendUpdater

BACKBONES: dict[str, Callable[..., FeatureNetwork]] = {
    "resnet-18": partial(ResNet, 18),
    "resnet-34": partial(ResNet, 34),
    "resnet-50": partial(ResNet, 50),
    "resnet-101": partial(ResNet, 101),
    "mobilenet-v2": MobileNetV2,
    # For tests: one block a stage, a quarter of the width.
    "resnet-tiny": partial(ResNet, 10, width=16, channels=128),
}

FLOWS: dict[str, Callable[[], Aligner]] = {"dis": DISFlow, "codec": CodecMotion, "raft": RAFTFlow}
"""Flow sources that need no training of ours."""

ATTENTIONS: dict[str, Callable[..., Aligner]] = {
    "psla": PSLA,
    "dense": DensePSLA,
    "matchtrans": MatchTrans,
    "nonlocal": Nonlocal,
}
"""Attention in place of flow (002, Tables 2 and 3)."""

WINDOW_TRAINING = 9
"""FGFA draws its training neighbours from ±9 frames."""


class Networks(TypedDict, total=False):
    """What every method takes: the network that works frame by frame.

    num_classes: without background. classes: their names. task: "detection" (R-FCN) or "segmentation". deformable: 0, 3
    or 6 deformable layers. task_layers: layers in the task network, 0, 1, 5, 12 or 21 (004, Table 5). shorter, longer:
    input size in pixels. anchor_scales: in cells of 16 pixels. bins: position-sensitive ones along a region's side, 7;
    3 suit objects of few cells. hard_examples: train the head on the hardest regions, else on any. auxiliary: a further
    loss in training that names the object at every cell. stride_in_1x1: the Caffe layout of the residual blocks. fixed:
    parts that do not train: feature_network, head, aligner. Weights are random until loaded. Only a ResNet has
    deformable layers, the Caffe layout and more than one task layer.
    """

    num_classes: int
    classes: Sequence[str]
    task: str
    deformable: int
    task_layers: int
    shorter: int
    longer: int
    anchor_scales: Sequence[float]
    bins: int
    hard_examples: bool
    auxiliary: bool
    stride_in_1x1: bool
    fixed: Sequence[str]


P = ParamSpec("P")


def describes(name: str) -> Callable[[Callable[P, VideoModel]], Callable[P, VideoModel]]:
    """The builder, which then notes in the model's description what it was called with."""

    def decorate(build: Callable[P, VideoModel]) -> Callable[P, VideoModel]:
        @wraps(build)
        def described(*positional: P.args, **named: P.kwargs) -> VideoModel:
            model = build(*positional, **named)
            given = dict(zip(("backbone",), positional, strict=True)) if positional else {}
            arguments = {k: v for k, v in (given | named).items() if k != "classes"}
            model.description = {"method": name, "arguments": arguments}
            return model

        return described

    return decorate


@describes("rfcn")
def rfcn(backbone: str = "resnet-101", **networks: Unpack[Networks]) -> VideoModel:
    """R-FCN, or the segmentation network, on every frame (004, section 4)."""
    feature_network, head, common = frame_network(backbone, **networks)
    return compose(feature_network, head, common, scheduler=FixedInterval(1))


@describes("dff")
def dff(
    backbone: str = "resnet-101",
    *,
    flow: str = "flownet-s",
    interval: int = 10,
    key_position: int = 0,
    scale_field: bool = True,
    joint: bool = True,
    **networks: Unpack[Networks],
) -> VideoModel:
    """Deep Feature Flow (004, Algorithm 1).

    flow: of `FLOW_NETWORKS`. interval: key frame duration l. key_position: the key frame's place in its segment.
    scale_field: modulate the warped features (Eq. 3). joint: train on frame pairs; else on single frames, and the flow
    network for itself ("DFF separate").
    """
    feature_network, head, common = frame_network(backbone, **networks)
    return compose(
        feature_network,
        head,
        common,
        scheduler=_segments(interval, key_position),
        aligner=_flow_network(flow, feature_network.channels if scale_field else None),
        training=pair(interval) if joint else SINGLE,
    )


@describes("fgfa")
def fgfa(
    backbone: str = "resnet-101",
    *,
    flow: str = "flownet-s",
    radius: int = 10,
    embed_before_warp: bool = True,
    align_current: bool = True,
    neighbours: int = 2,
    neighbours_alone: bool = True,
    **networks: Unpack[Networks],
) -> VideoModel:
    """Flow-guided feature aggregation over the window i − r … i + r.

    radius: r; 10 is the paper's, 9 the authors' released setting. embed_before_warp: at inference each frame is
    embedded once, as in the authors' code; in training, and with False always, after the warp as in the paper.
    align_current: the frame's own features are warped by the flow of the frame with itself, as in the authors' code.
    neighbours: of a training clip. neighbours_alone: their sum is trained, without the current frame, and they are from
    ±9 frames (the authors' code again); False: with it, as at inference, and from ±r.
    """
    feature_network, head, common = frame_network(backbone, **networks)
    return compose(
        feature_network,
        head,
        common,
        scheduler=SlidingWindow(radius),
        aligner=_flow_network(flow, None),
        aggregator=CosineAggregator(feature_network.channels, before_warp=embed_before_warp),
        align_current=align_current,
        training=window(neighbours, WINDOW_TRAINING if neighbours_alone else radius, with_current=not neighbours_alone),
    )


@describes("thp-c3")
def thp(
    backbone: str = "resnet-101",
    *,
    flow: str = "flownet-s",
    interval: int = 10,
    partial: bool = True,
    adaptive: bool = True,
    gamma: float = 0.2,
    area_weight: float = 2.0,
    embed_before_warp: bool = True,
    cache: Literal["blocks", "stages"] = "blocks",
    sparse: bool = True,
    **networks: Unpack[Networks],
) -> VideoModel:
    """Sparsely recursive aggregation (c1), with partial updating (c2) and adaptive key frames (c3) (001, Table 1).

    All three are trained alike and share their weights. interval: key frame duration l; with `adaptive` it only limits
    a training pair. partial: update non-key frames where their quality is low (Eq. 6). adaptive, gamma: key frames by
    Eq. 9. area_weight: λ of Eq. 12. cache, sparse: of `PartialUpdater`. embed_before_warp: as of `fgfa`.
    """
    feature_network, head, common = frame_network(backbone, **networks)
    return compose(
        feature_network,
        head,
        common,
        scheduler=AdaptiveInterval(gamma) if adaptive else FixedInterval(interval),
        aligner=_flow_network(flow, None, quality=True),
        aggregator=CosineAggregator(feature_network.channels, before_warp=embed_before_warp),
        aggregate_every_frame=True,
        updater=PartialUpdater(cache=cache, sparse=sparse, at_inference=partial),
        training=pair(interval),
        losses=(update_area(area_weight),),
    )


@describes("impression-d")
def impression(
    backbone: str = "resnet-101",
    *,
    flow: str = "flownet-s",
    interval: int = 10,
    key_position: int | None = None,
    gate: float = 1.0,
    weights: str = "quality",
    **networks: Unpack[Networks],
) -> VideoModel:
    """Impression Network (003, Algorithm 1).

    interval: segment length l. key_position: the key frame's id in its segment, by default ⌊l/2⌋. gate: g (Eq. 4).
    weights: "quality" (Eq. 2), "equal" (0.5 each, method c), or "none": no impression (method b).
    """
    feature_network, head, common = frame_network(backbone, **networks)
    aggregators = {"quality": QualityAggregator, "equal": lambda _: EqualAggregator(), "none": lambda _: None}
    if weights not in aggregators:
        raise unknown("weighting", weights, aggregators)
    return compose(
        feature_network,
        head,
        common,
        scheduler=SegmentCentre(interval, interval // 2 if key_position is None else key_position),
        aligner=_flow_network(flow, feature_network.channels),
        aggregator=aggregators[weights](feature_network.channels),
        memory_gate=gate,
        training=triplet(interval),
    )


@describes("psla-c")
def psla(
    backbone: str = "resnet-101",
    *,
    attention: str = "psla",
    displacement: int = 4,
    embedding: int | None = 256,
    cosine: float | None = None,
    interval: int = 10,
    key_position: int | None = None,
    recursive: bool = True,
    quality_net: bool = True,
    **networks: Unpack[Networks],
) -> VideoModel:
    """Progressive sparse local attention (002), or a rival in its place.

    attention: of `ATTENTIONS`. displacement: d. embedding: channels of f and g (section 3.5), or None for none, which
    the paper's model sizes imply. cosine: compare unit vectors, times this number (about 25), instead of raw inner
    products; ours, for a trained detector that is to learn attention in few steps. recursive: RFU, the temporal
    feature; else each key frame by itself. interval, key_position: segments and their key frame, by default in the
    middle (l/2 − 1); without recursion the first, as then "preceding" key frames are propagated (section 4.3).
    quality_net: blend propagated features with the transform net's, whose features come from conv4's fourth block
    (res4b3).
    """
    feature_network, head, common = frame_network(backbone, **networks)
    if attention not in ATTENTIONS:
        raise unknown("attention", attention, ATTENTIONS)
    channels = feature_network.channels
    near = {} if attention == "nonlocal" else {"displacement": displacement}
    return compose(
        feature_network,
        head,
        common,
        scheduler=SegmentCentre(interval, 0 if key_position is None and not recursive else key_position),
        aligner=ATTENTIONS[attention](channels, embedding=embedding, cosine=cosine, **near),
        aggregator=JointQualityAggregator(channels) if recursive else None,
        updater=BlendUpdater(JointQualityAggregator(channels)) if quality_net else None,
        transform_net=TransformNet(feature_network.low_channels, channels),
        training=triplet(interval) if recursive else pair(interval),
    )


@describes("iff-c")
def iff(
    backbone: str = "resnet-101",
    *,
    module: str = "advanced",
    residual_weight: float = 0.65,
    radius: int = 10,
    neighbours: int = 2,
    embed_before_warp: bool = True,
    **networks: Unpack[Networks],
) -> VideoModel:
    """IFF-Net (000): feature flow from the features themselves, aggregated as in FGFA.

    module: "basic" or "advanced". residual_weight: λ of the transformation residual loss (Eq. 3), 0 = without. radius:
    of the window, 10 = 20 neighbours. neighbours: of a training clip. embed_before_warp: as of `fgfa`.
    """
    feature_network, head, common = frame_network(backbone, **networks)
    modules: dict[str, Callable[..., Aligner]] = {"basic": BasicFeatureFlow, "advanced": AdvancedFeatureFlow}
    if module not in modules:
        raise unknown("IFF module", module, modules)
    return compose(
        feature_network,
        head,
        common,
        scheduler=SlidingWindow(radius),
        aligner=modules[module](feature_network.channels),
        aggregator=CosineAggregator(feature_network.channels, before_warp=embed_before_warp),
        training=window(neighbours, radius, with_current=True),
        losses=(transformation_residual(residual_weight),) if residual_weight else (),
    )


def wrap(
    detector: Parts | VideoModel | nn.Module | str | Path,
    *,
    flow: str = "dis",
    interval: int = 5,
    key_position: int | None = None,
) -> VideoModel:
    """Any trained detector or segmentation model, run on key frames and carried to the others (004, "SFF").

    detector: a torchvision detection or segmentation model, the path of an ONNX detector, a trained model of ours (of
    which the frame network is taken), or `Parts` of your own.
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
        scheduler=_segments(interval, key_position),
        aligner=FLOWS[flow]() if interval > 1 else None,
        transform=parts.transform,
        classes=parts.classes,
        description={"method": "sff", "arguments": {"flow": flow, "interval": interval, "key_position": key_position}},
    )


def variant(name: str, build: Callable[..., VideoModel], **fixed: Any) -> Callable[..., VideoModel]:
    """The builder with some arguments given, under a name of its own."""

    @wraps(build)
    def named(*positional: Any, **options: Any) -> VideoModel:
        model = build(*positional, **(fixed | options))
        model.description = model.description | {"method": name}
        return model

    return named


AS_IFF = {"align_current": False, "neighbours_alone": False}
NOT_JOINT = {"joint": False, "fixed": ("aligner",)}
_ROWS: dict[str, tuple[Callable[..., VideoModel], dict[str, Any]]] = {
    "rfcn": (rfcn, {}),
    "dff": (dff, {}),
    "dff-half": (dff, {"flow": "flownet-half"}),
    "dff-inception": (dff, {"flow": "flownet-inception"}),
    "dff-fix-n": (dff, {"fixed": ("feature_network", "head")}),
    "dff-fix-f": (dff, {"fixed": ("aligner",)}),
    "dff-separate": (dff, NOT_JOINT),
    "sff": (wrap, {}),
    "fgfa": (fgfa, {}),
    "thp-c1": (thp, {"partial": False, "adaptive": False}),
    "thp-c2": (thp, {"adaptive": False}),
    "thp-c3": (thp, {}),
    "impression-a": (rfcn, {}),
    "impression-b": (impression, {"weights": "none"}),
    "impression-c": (impression, {"weights": "equal"}),
    "impression-d": (impression, {}),
    "impression-e": (impression, {"fixed": ("feature_network", "aligner")}),
    "psla-a": (psla, {"recursive": False, "quality_net": False}),
    "psla-b": (psla, {"quality_net": False}),
    "psla-c": (psla, {}),
    "psla-nonlocal-s": (psla, {"attention": "nonlocal", "recursive": False, "quality_net": False}),
    "psla-nonlocal-f": (psla, {"attention": "nonlocal"}),
    "psla-matchtrans-s": (psla, {"attention": "matchtrans", "recursive": False, "quality_net": False}),
    "psla-matchtrans-f": (psla, {"attention": "matchtrans"}),
    "psla-dense-s": (psla, {"attention": "dense", "recursive": False, "quality_net": False}),
    "psla-dense-f": (psla, {"attention": "dense"}),
    "iff-a": (iff, {"module": "basic", "residual_weight": 0.0}),
    "iff-b": (iff, {"module": "basic"}),
    "iff-c": (iff, {}),
    "iff-d": (iff, {}),
    "iff-e": (iff, {}),
    "iff-f": (iff, {"deformable": 3}),
    "iff-g": (iff, {"deformable": 3, "neighbours": 4}),
    "iff-h": (iff, {"deformable": 6, "neighbours": 4}),
    "optflow-a": (fgfa, AS_IFF | {"fixed": ("aligner",)}),
    "optflow-b": (fgfa, AS_IFF),
}
METHODS: dict[str, Callable[..., VideoModel]] = {
    name: variant(name, build, **arguments) for name, (build, arguments) in _ROWS.items()
}
"""Builders by name: a row of a paper's table each. Those that differ in post-processing alone are built alike."""


def preset(name: str) -> dict[str, Any]:
    """The arguments that a method's name stands for, which a recipe leaves alone; none for a builder of one's own."""
    return dict(_ROWS[name][1]) if name in _ROWS else {}


def frame_network(
    backbone: str,
    *,
    num_classes: int = 30,
    classes: Sequence[str] = (),
    task: str = "detection",
    deformable: int = 0,
    task_layers: int = 1,
    shorter: int = 600,
    longer: int = 1000,
    anchor_scales: Sequence[float] = (8, 16, 32),
    bins: int = 7,
    hard_examples: bool = True,
    auxiliary: bool = False,
    stride_in_1x1: bool = False,
    fixed: Sequence[str] = (),
) -> tuple[FeatureNetwork, TaskHead, dict[str, Any]]:
    """The network N of 004, split into N_feat and N_task; and what else every model takes."""
    if task not in ("detection", "segmentation"):
        raise unknown("task", task, ("detection", "segmentation"))
    common = {
        "transform": ImageTransform(shorter, longer),
        "classes": classes or [f"class {i}" for i in range(num_classes)],
        "fixed": fixed,
    }
    body = _backbone(backbone, deformable=deformable, stride_in_1x1=stride_in_1x1)
    head: TaskHead
    if task == "segmentation":
        head = SegmentationHead(num_classes, channels=body.channels)
    else:
        head = RFCNHead(
            num_classes,
            channels=body.channels,
            group=bins,
            anchor_scales=anchor_scales,
            hard_examples=hard_examples,
            auxiliary=auxiliary,
        )
    if task_layers == 0:
        if not isinstance(head, RFCNHead):
            raise UserError("task layers 0 (score maps as features) are for detection; give 1, 5, 12 or 21")
        if auxiliary:
            raise UserError("the auxiliary loss reads features, which task layers 0 have not; leave one of them out")
        return FeaturesWithMaps(body, head.score_maps), head.dense, common
    if task_layers == 1:
        return body, head, common
    if not isinstance(body, ResNet):
        raise UserError(f"{backbone} takes task layers 0 or 1, got {task_layers}; more take a resnet")
    trunk, tail = body.split(task_layers)
    return trunk, HeadWithTail(tail, head), common


def _backbone(name: str, **options: Any) -> FeatureNetwork:
    """The network with the options that are set; those of residual networks do not fit the others."""
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    given = {option: value for option, value in options.items() if value}
    for option in given:
        if option not in signature(BACKBONES[name]).parameters:
            raise UserError(f"backbone {name} has no {option.replace('_', ' ')}; leave it out, or take a resnet")
    return BACKBONES[name](**given)


def compose(feature_network: FeatureNetwork, head: TaskHead, common: dict[str, Any], **parts: Any) -> VideoModel:
    """The model of a method's own parts and of what all methods share; the parts named in `fixed` do not learn."""
    fixed = common.pop("fixed")
    model = VideoModel(feature_network, head, **common, **parts)
    for name in fixed:
        part = getattr(model, name, None)
        if not isinstance(part, nn.Module):
            raise unknown("part", name, [n for n, _ in model.named_children()])
        part.requires_grad_(False)
    return model


def _segments(interval: int, key_position: int) -> Scheduler:
    return SegmentCentre(interval, key_position) if key_position else FixedInterval(interval)


def _flow_network(name: str, scale_channels: int | None, quality: bool = False) -> Aligner:
    if name not in FLOW_NETWORKS:
        raise unknown("flow network", name, FLOW_NETWORKS)
    return FLOW_NETWORKS[name](scale_channels=scale_channels, quality=quality)


def _parts(detector: Parts | VideoModel | nn.Module | str | Path) -> Parts:
    if isinstance(detector, Parts):
        return detector
    if isinstance(detector, VideoModel):
        return Parts(detector.feature_network, detector.head, detector.transform, tuple(detector.classes))
    if isinstance(detector, nn.Module):
        from keywarp.adapters.torchvision_models import split_torchvision

        return split_torchvision(detector)
    from keywarp.adapters.yolox import yolox_parts

    return yolox_parts(Path(detector))
