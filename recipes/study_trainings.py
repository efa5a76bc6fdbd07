"""How the rows of the study are trained: each function a recipe of `keywarp train` (docs/study.md, Protocol)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from keywarp.training.config import TrainConfig
from keywarp.training.recipes import SMALL, synthetic

FLOW = "flownet-matching"


def video() -> TrainConfig:
    """From a per-frame network and a flow network that are trained already: these at 1/25 and 1/5 of the rate of what
    is new, the backbone slower still. At higher rates features and head get worse on every frame by themselves."""
    trained = {"feature_network.": 0.04, "feature_network.features.": 0.008, "head.": 0.04, "aligner.": 0.2}
    trained |= {"aligner.scale.": 1.0, "aligner.quality.": 1.0}  # a flow network's new layers
    return replace(
        synthetic(),
        steps=400,
        images_per_step=2,
        rate_per_image=1e-3 / 4,
        warmup=20,
        rates=trained | {".offset.": 0.05},
        validate_every=10**6,
        save_every=100,
        model=SMALL | {"flow": FLOW},
    )


def settled() -> TrainConfig:
    """The detector once more, at five times the rates of `video`."""
    return replace(video(), rates={"feature_network.": 0.2, "feature_network.features.": 0.04, "head.": 0.2})


def with_arguments(config: TrainConfig, **arguments: Any) -> TrainConfig:
    """A recipe whose model has further arguments."""
    return replace(config, model={**config.model, **arguments})


def long(config: TrainConfig) -> TrainConfig:
    """A recipe of four times the steps."""
    return replace(config, steps=4 * config.steps)


def partial() -> TrainConfig:
    """`video`, with λ = 0.2 in 001, Eq. 12: at the paper's 2 nothing is computed anew after 400 steps."""
    return with_arguments(video(), area_weight=0.2)


def without_scale() -> TrainConfig:
    """`video`, of Deep Feature Flow without the scale field."""
    return with_arguments(video(), scale_field=False)


def attention() -> TrainConfig:
    """`video`, of methods whose aligner is not trained before: attention (of unit vectors), feature flow."""
    return with_arguments(replace(video(), rates={**video().rates, "aligner.": 1.0}), cosine=25.0)


def strong_residual() -> TrainConfig:
    """`attention` of twice the steps, with λ = 20 in 000, Eq. 3: no row of the study, but tried to have IFF-Net's flow
    follow motion (docs/study.md)."""
    return with_arguments(replace(attention(), steps=800), residual_weight=20.0)


def strong_residual_fixed() -> TrainConfig:
    """`strong_residual` with features and head fixed, which that loss then does not reach."""
    return with_arguments(strong_residual(), fixed=("feature_network", "head"))


def video_long() -> TrainConfig:
    """`video` of four times the steps."""
    return long(video())


def attention_long() -> TrainConfig:
    """`attention` of four times the steps."""
    return long(attention())


def displacement_2() -> TrainConfig:
    """`attention` with d = 2."""
    return with_arguments(attention(), displacement=2)


def displacement_3() -> TrainConfig:
    """`attention` with d = 3."""
    return with_arguments(attention(), displacement=3)


def displacement_5() -> TrainConfig:
    """`attention` with d = 5."""
    return with_arguments(attention(), displacement=5)


TRAININGS: dict[str, tuple[str, Callable[[], TrainConfig]]] = {
    "settled": ("rfcn", settled),
    "frame": ("rfcn", video),
    "dff": ("dff", video),
    "psla-c": ("psla-c", attention),
    "fgfa": ("fgfa", video),
    "impression-d": ("impression-d", video),
    "thp": ("thp-c3", partial),
    "impression-b": ("impression-b", video),
    "dff-separate": ("dff-separate", video),
    "frame-long": ("rfcn", video_long),
    "psla-c-long": ("psla-c", attention_long),
    "iff-b": ("iff-b", attention),
    "iff-c": ("iff-c", attention),
    "iff-a": ("iff-a", attention),
    "optflow-a": ("optflow-a", video),
    "optflow-b": ("optflow-b", video),
    "psla-a": ("psla-a", attention),
    "psla-b": ("psla-b", attention),
    "dff-fix-n": ("dff-fix-n", video),
    "dff-fix-f": ("dff-fix-f", video),
    "dff-without-scale": ("dff", without_scale),
    "impression-c": ("impression-c", video),
    "impression-e": ("impression-e", video),
    "psla-nonlocal-s": ("psla-nonlocal-s", attention),
    "psla-matchtrans-s": ("psla-matchtrans-s", attention),
    "psla-dense-s": ("psla-dense-s", attention),
    "psla-nonlocal-f": ("psla-nonlocal-f", attention),
    "psla-matchtrans-f": ("psla-matchtrans-f", attention),
    "psla-dense-f": ("psla-dense-f", attention),
    "psla-a-d2": ("psla-a", displacement_2),
    "psla-a-d3": ("psla-a", displacement_3),
    "psla-a-d5": ("psla-a", displacement_5),
}
"""Method and recipe by name. The first starts from the detector, the others from the first; those that the papers' main
claims compare come before the rest."""
