"""The papers' training settings, and those of the synthetic benchmark: functions that return a `TrainConfig`.

Where a paper is silent the setting is that of its authors' earlier code (DFF and FGFA: momentum 0.9, weight decay
5e-4, conv1 and conv2_x fixed, no warm-up, no clipping).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from keywarp.errors import UserError, unknown
from keywarp.training.config import TrainConfig


def dff() -> TrainConfig:
    """Deep Feature Flow on ImageNet VID and DET (004, 5.1): 8 GPUs with one image each; VID to DET 2:1."""
    return TrainConfig(steps=60_000, images_per_step=8, rate_per_image=1.25e-4, drops=(40_000,), ratios=(2, 1))


def dff_segmentation() -> TrainConfig:
    """Deep Feature Flow on Cityscapes (004, 5.1): shorter side 1,024."""
    return TrainConfig(
        steps=20_000,
        images_per_step=8,
        rate_per_image=1.25e-4,
        drops=(15_000,),
        skip_empty=False,
        model={"shorter": 1024, "longer": 2048},
    )


def thp() -> TrainConfig:
    """Towards High Performance Video Object Detection (001, 5): 4 GPUs; VID to DET 1:1."""
    return TrainConfig(steps=120_000, drops=(80_000,), ratios=(1, 1))


def fgfa() -> TrainConfig:
    """Flow-guided feature aggregation, by its authors' code: as THP."""
    return thp()


def impression() -> TrainConfig:
    """Impression Network (003, 4.1): 8 GPUs with three frames of one clip each."""
    return TrainConfig(steps=120_000, images_per_step=8, rate_per_image=1.25e-4, drops=(70_000,), ratios=(1, 1))


def psla() -> TrainConfig:
    """Progressive sparse local attention (002, 3.5): 8 GPUs.

    The paper's learning rate, 2.5e-4, is per image, as its authors' code sums the GPUs' gradients.
    """
    return TrainConfig(steps=120_000, images_per_step=8, drops=(80_000,), ratios=(1, 1))


def iff() -> TrainConfig:
    """IFF-Net (000, 4.1): 4 GPUs."""
    return TrainConfig(steps=120_000, drops=(71_250,), ratios=(1, 1))


SMALL = {
    "backbone": "mobilenet-v2",
    "flow": "flownet-inception",
    "shorter": 192,
    "longer": 320,
    "anchor_scales": (2.0, 4.0, 7.0),
    "bins": 3,
    "hard_examples": False,
    "auxiliary": True,
}
"""A small network for the synthetic benchmark."""


def synthetic() -> TrainConfig:
    """The synthetic benchmark on two CPU cores: MobileNetV2, from ImageNet weights, at 192 × 320.

    Offsets of deformable layers learn slowly: AdamW's steps do not shrink with the gradient, and at the full rate the
    offsets run off the map.
    """
    return TrainConfig(
        steps=4_000,
        images_per_step=4,
        rate_per_image=1e-3 / 4,
        optimiser="adamw",
        weight_decay=1e-2,
        cosine=True,
        warmup=200,
        clip_norm=10.0,
        frozen_stages=3,
        rates={"feature_network.features.": 0.2, ".offset.": 0.05},
        zoom=(0.8, 1.25),
        colour=0.2,
        model=SMALL,
        validate_every=2_000,
        save_every=250,
    )


def synthetic_video() -> TrainConfig:
    """The synthetic benchmark, from a trained per-frame detector (--init): all parts together, at a low rate."""
    return replace(synthetic(), steps=1_000, rate_per_image=2e-4 / 4, warmup=50, validate_every=1_000)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "dff": dff,
    "dff-segmentation": dff_segmentation,
    "fgfa": fgfa,
    "thp": thp,
    "impression": impression,
    "psla": psla,
    "iff": iff,
    "synthetic": synthetic,
    "synthetic-video": synthetic_video,
}
"""By the names that `--recipe` takes."""

OF_FAMILY = {"rfcn": "dff", "optflow": "iff"}
"""Whose recipe the methods without one of their own take."""


def recipe(name: str | None, method: str, task: str = "detection") -> TrainConfig:
    """The recipe of that name or file, or the paper's for this method.

    name: of `RECIPES`; or FILE.py:FUNCTION, whose function returns a `TrainConfig`.
    """
    if name is None:
        family = method.split("-")[0]
        name = "dff-segmentation" if task == "segmentation" else OF_FAMILY.get(family, family)
    if ".py" in name:
        return _from_file(name)
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def _from_file(name: str) -> TrainConfig:
    path, _, function = name.partition(":")
    if not Path(path).is_file() or not function:
        raise UserError(f"--recipe must be one of {', '.join(RECIPES)}, or FILE.py:FUNCTION, got {name!r}")
    spec = importlib.util.spec_from_file_location(f"recipe file {path}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        config = getattr(module, function)()
    except Exception as error:
        raise UserError(f"--recipe {name}: {type(error).__name__}: {error}") from error
    if not isinstance(config, TrainConfig):
        raise UserError(f"--recipe {name}: {function}() must return a TrainConfig, got {type(config).__name__}")
    return config
