"""Trained detectors of other libraries, split into feature network and task head with the weights they have."""

from __future__ import annotations

from typing import NamedTuple

from keywarp.interfaces import FeatureNetwork, TaskHead
from keywarp.transform import ImageTransform


class Parts(NamedTuple):
    """A detector or segmentation model in two halves: what shallow feature flow (004, "SFF") needs of it.

    feature_network: images `[N, 3, H, W]` RGB 0…255 to features; normalises for itself. head: features to
    detections in pixels of the network's input, labels from 0 without background; or class scores
    `[N, classes, h, w]`. transform: the model's own resizing rule. classes: names by label, empty where unknown.
    """

    feature_network: FeatureNetwork
    head: TaskHead
    transform: ImageTransform
    classes: tuple[str, ...]
