"""torchvision's detection and segmentation models, split after the backbone (its pyramid included).

Each half runs the library's own modules as they are, so both can be shared by any number of predictors.

Legend: N frames · (H, W) pixels · (h, w) feature cells
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights, list_models, segmentation
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from keywarp.adapters import Parts
from keywarp.errors import UserError, unknown
from keywarp.interfaces import FeatureNetwork, TaskHead
from keywarp.networks.weight_files import load_weights, torchvision_state
from keywarp.structures import Detections, Features
from keywarp.transform import ImageTransform

BACKGROUND = "__background__"

# The segmentation models carry no transform of their own; these are of the presets they were trained with.
SEGMENTATION_TRANSFORM = ImageTransform(shorter=520, longer=100_000)  # no bound on the longer side
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Their COCO_V1 weights are older than the epsilon in torchvision's frozen batch norm.
WITHOUT_EPSILON = {f"{family}_resnet50_fpn" for family in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet")}


def torchvision_parts(name: str, weights: str | Path | None = "DEFAULT") -> Parts:
    """The two halves of a torchvision model by name, "fasterrcnn_mobilenet_v3_large_fpn" for one.

    weights: an entry of torchvision's own list for it ("DEFAULT", "COCO_V1" …; downloaded once by torchvision), a
    .pth or .safetensors file, or None for random ones from a fixed seed (speed tests). A file must be of the model
    with its published classes; for others build the model and give it to `split_torchvision`.
    Raises UserError for an unknown name, weights that cannot be had and tensors that do not fit.
    """
    known = [*list_models(detection), *list_models(segmentation)]
    if name not in known:
        raise unknown("torchvision model", name, known)
    categories = get_model_weights(name).DEFAULT.meta["categories"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_model(name, weights=None, weights_backbone=None, num_classes=len(categories))
    if weights is None:
        _prefer_background(model)
    else:
        state = weights if Path(weights).suffix else torchvision_state(name, weights)
        load_weights(model, state, ignore=("aux_classifier.",))  # used in training only
        if name in WITHOUT_EPSILON and _is_first_version(name, weights):
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 0.0
    if name in list_models(detection):
        categories = [BACKGROUND, *categories[1:]]  # the keypoint detector calls it "no person"
    return split_torchvision(model, categories)


def _prefer_background(model: nn.Module) -> None:
    """Make all boxes of an untrained SSD background, as most are after training.

    Its other relatives start so by themselves or look at few boxes; here all 8,732 would go through the suppression of
    90 classes, and a speed test would measure that.
    """
    if isinstance(model, detection.ssd.SSD):
        head = model.head.classification_head
        for level in head.module_list:
            *_, scores = (module for module in level.modules() if isinstance(module, nn.Conv2d))
            nn.init.zeros_(scores.weight)
            assert scores.bias is not None
            scores.bias.data.view(-1, head.num_columns)[:, 0] = 8


def _is_first_version(name: str, weights: str | Path) -> bool:
    """Whether these are the COCO_V1 weights, by their name or as a local copy of their file."""
    entries = get_model_weights(name)
    first = entries.COCO_V1
    return entries.__members__.get(str(weights)) is first or Path(weights).name == Path(first.url).name


def split_torchvision(model: nn.Module, classes: Sequence[str] = ()) -> Parts:
    """The two halves of a torchvision model, sharing its weights; puts it into eval mode.

    model: Faster, Mask (its boxes) or Keypoint R-CNN (its boxes), RetinaNet, FCOS, SSD, SSDlite; DeepLabV3, FCN or
    LR-ASPP. Thresholds, normalisation and size rule are the model's own.
    classes: names by label. A detector's background is none: a leading "__background__" is dropped, and where
    RetinaNet or FCOS were trained with one, it moves their labels down by one.
    """
    model.eval()
    names = tuple(classes)
    if isinstance(model, segmentation.LRASPP):
        return _segmentation_parts(model, ("low", "high"), LRASPPHead(model.classifier), names)
    if isinstance(model, segmentation.DeepLabV3 | segmentation.FCN):
        return _segmentation_parts(model, ("out",), ClassifierHead(model.classifier), names)
    has_background = names[:1] == (BACKGROUND,)
    head: TaskHead
    if isinstance(model, GeneralizedRCNN):
        head = RCNNHead(model)
    elif isinstance(model, detection.ssd.SSD):
        head = SSDHead(model)
    elif isinstance(model, detection.RetinaNet | detection.FCOS):
        head = PerLevelHead(model, first_label=int(has_background))
    else:
        raise UserError(
            "wanted a torchvision R-CNN, RetinaNet, FCOS, SSD, DeepLabV3, FCN or LR-ASPP model, "
            f"got {type(model).__name__}; build keywarp.adapters.Parts for it yourself"
        )
    rule = model.transform
    network = BackboneFeatures(model.backbone, rule.image_mean, rule.image_std, divisible=rule.size_divisible)
    if rule.fixed_size is not None:
        transform = ImageTransform(size=(rule.fixed_size[1], rule.fixed_size[0]))  # torchvision's is (width, height)
    else:
        transform = ImageTransform(rule.min_size[-1], rule.max_size)
    return Parts(network, head, transform, names[1:] if has_background else names)


def _segmentation_parts(model: Any, levels: tuple[str, ...], head: TaskHead, classes: tuple[str, ...]) -> Parts:
    network = BackboneFeatures(model.backbone, IMAGENET_MEAN, IMAGENET_STD, levels=levels)
    return Parts(network, head, SEGMENTATION_TRANSFORM, classes)


class BackboneFeatures(FeatureNetwork):
    """The first half: normalisation, padding, backbone.

    divisible: images are padded right and below to multiples of it, with zeros after the normalisation. levels: which
    of the backbone's outputs, by name; all by default.
    """

    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        backbone: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        divisible: int = 1,
        levels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.divisible = divisible
        self.levels = levels
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Features:
        x = (image.to(self.mean.dtype) / 255 - self.mean) / self.std
        x = F.pad(x, (0, -x.shape[-1] % self.divisible, 0, -x.shape[-2] % self.divisible))
        features = self.backbone(x)
        if isinstance(features, Tensor):
            return (features,)
        return tuple(features[name] for name in self.levels or features)


class RCNNHead(TaskHead):
    """Region proposals and box head of Faster R-CNN and its kin; masks and keypoints are not computed."""

    def __init__(self, detector: GeneralizedRCNN) -> None:
        super().__init__()
        self.rpn = detector.rpn
        self.roi_heads = detector.roi_heads
        self.divisible = detector.transform.size_divisible
        with torch.inference_mode():  # only the backbone knows the names of its levels
            levels = detector.backbone(next(detector.backbone.parameters()).new_zeros(1, 3, 128, 128))
        self.levels = ("0",) if isinstance(levels, Tensor) else tuple(levels)

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        levels = dict(zip(self.levels, features, strict=True))
        images = _image_list(features[0], image_sizes, self.divisible)
        heads = self.roi_heads
        proposals, _ = self.rpn(images, levels)
        regions = heads.box_head(heads.box_roi_pool(levels, proposals, images.image_sizes))
        logits, offsets = heads.box_predictor(regions)
        found = heads.postprocess_detections(logits, offsets, proposals, images.image_sizes)
        return [Detections(boxes, scores, labels - 1) for boxes, scores, labels in zip(*found, strict=True)]


class SSDHead(TaskHead):
    """Head, anchors and post-processing of SSD and SSDlite."""

    def __init__(self, detector: detection.ssd.SSD) -> None:
        super().__init__()
        self.detector = _without_backbone(detector)

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        levels, detector = list(features), self.detector
        images = _image_list(features[0], image_sizes, detector.transform.size_divisible)
        anchors = detector.anchor_generator(images, levels)
        found = detector.postprocess_detections(detector.head(levels), anchors, images.image_sizes)
        return [Detections(f["boxes"], f["scores"], f["labels"] - 1) for f in found]


class PerLevelHead(TaskHead):
    """Head, anchors and post-processing of RetinaNet and FCOS, which keep the best candidates of each level.

    first_label: 1 where the detector's label 0 is a background class, whose boxes are dropped.
    """

    def __init__(self, detector: detection.RetinaNet | detection.FCOS, first_label: int) -> None:
        super().__init__()
        self.detector = _without_backbone(detector)
        self.first_label = first_label

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        levels, detector = list(features), self.detector
        images = _image_list(features[0], image_sizes, detector.transform.size_divisible)
        outputs = detector.head(levels)  # each [N, anchors of all levels, …]
        cells = [level.shape[-2] * level.shape[-1] for level in levels]
        anchors_per_cell = outputs["cls_logits"].shape[1] // sum(cells)
        counts = [n * anchors_per_cell for n in cells]
        by_level = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
        anchors = [list(a.split(counts)) for a in detector.anchor_generator(images, levels)]
        found = detector.postprocess_detections(by_level, anchors, images.image_sizes)
        every = [Detections(f["boxes"], f["scores"], f["labels"] - self.first_label) for f in found]
        return [d[d.labels >= 0] for d in every]


class ClassifierHead(TaskHead):
    """The classifier of DeepLabV3 and FCN: class scores `[N, classes, h, w]`, background included."""

    segments = True

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        return self.classifier(features[0])


class LRASPPHead(TaskHead):
    """The classifier of LR-ASPP: class scores `[N, classes, h, w]`, background included."""

    segments = True

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        low, high = features
        return self.classifier({"low": low, "high": high})


def _without_backbone(detector: nn.Module) -> Any:
    """The detector's other modules and its methods, sharing the weights; the detector stays as it is."""
    rest = copy.copy(detector)
    rest.__dict__["_modules"] = {name: m for name, m in detector._modules.items() if name != "backbone"}
    return rest


def _image_list(features: Tensor, image_sizes: Sequence[tuple[int, int]], divisible: int) -> ImageList:
    """What anchors are made from: the padded size (of a tensor without channels) and each image's own."""
    height, width = (-(-max(side) // divisible) * divisible for side in zip(*image_sizes, strict=True))
    return ImageList(features.new_empty(len(image_sizes), 0, height, width), [(h, w) for h, w in image_sizes])
