"""What there is to see in a model, and in which methods there is what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import nn

from keywarp.adapters import Parts
from keywarp.aggregation import Aggregator
from keywarp.errors import UserError
from keywarp.insight.options import KINDS
from keywarp.methods import METHODS
from keywarp.model import VideoModel
from keywarp.transform import ImageTransform


def kinds_of(model: VideoModel) -> list[str]:
    """Those of `KINDS` that the model has."""
    has = {
        "features": True,
        "flow": model.aligner is not None,
        "weights": any(isinstance(part, Aggregator) for part in model.modules()),
        "updates": estimates_quality(model) or recomputes(model),
        "keys": True,
    }
    return [kind for kind in KINDS if has[kind]]


def estimates_quality(model: VideoModel) -> bool:
    """Whether its aligner tells how far the alignment can be trusted."""
    return getattr(model.aligner, "quality", None) is not None


def recomputes(model: VideoModel) -> bool:
    """Whether it computes parts of non-key frames anew."""
    return bool(getattr(model.updater, "at_inference", False))


def chosen(model: VideoModel, wanted: Sequence[str]) -> list[str]:
    """The kinds that are wanted, or all that the model has; UserError names the methods that have what it lacks."""
    has = kinds_of(model)
    for kind in wanted:
        if kind not in has:
            name = model.description.get("method", "this model")
            raise UserError(
                f"{name} has no {kind} ({KINDS[kind]}); leave it out of --show, or take one of these methods: "
                + ", ".join(methods_with(kind))
            )
    return [kind for kind in has if kind in wanted or not wanted]


def methods_with(kind: str) -> list[str]:
    """The names of `METHODS` that have it."""
    return [name for name, kinds in _kinds_by_method().items() if kind in kinds]


@cache
def _kinds_by_method() -> dict[str, list[str]]:
    return {name: kinds_of(_outline(name)) for name in METHODS}


def _outline(method: str) -> VideoModel:
    """The method without its weights, with a small network or a stand-in for a detector."""
    build, options = METHODS[method], dict[str, Any](backbone="resnet-18")
    if "detector" in signature(build).parameters:
        stand_in: Any = nn.Identity()
        options = {"detector": Parts(stand_in, stand_in, ImageTransform(), ())}
    with torch.device("meta"):
        return build(**options)
