"""Settings to train flow networks with: functions that return a `TrainConfig`, whose `model` holds the crop (H, W)."""

from __future__ import annotations

from collections.abc import Callable

from keywarp.errors import unknown
from keywarp.training.config import TrainConfig
from keywarp.training.recipes import recipe


def chairs() -> TrainConfig:
    """FlowNet on Flying Chairs (Dosovitskiy et al. 2015, 5.1): Adam, batches of 8, halved from 300,000 steps on."""
    return TrainConfig(
        steps=600_000,
        images_per_step=8,
        rate_per_image=1e-4 / 8,
        drops=(300_000, 400_000, 500_000),
        fall=0.5,
        optimiser="adamw",
        weight_decay=4e-4,
        zoom=(0.8, 1.5),
        colour=0.4,
        model={"crop": (320, 448)},
    )


def synthetic() -> TrainConfig:
    """Pairs of `keywarp data synthesize-pairs`, on one or two CPU cores: few large steps, and short ones (clipping)."""
    return TrainConfig(
        steps=2_000,
        images_per_step=16,
        rate_per_image=2e-3 / 16,
        cosine=True,
        warmup=100,
        clip_norm=2.0,
        optimiser="adamw",
        weight_decay=4e-4,
        zoom=(1.0, 1.3),
        model={"crop": (192, 256)},
        validate_every=500,
        save_every=100,
    )


FLOW_RECIPES: dict[str, Callable[[], TrainConfig]] = {"chairs": chairs, "synthetic": synthetic}
"""By the names that `--recipe` takes."""


def flow_recipe(name: str) -> TrainConfig:
    """The recipe of that name, of `FLOW_RECIPES`; or FILE.py:FUNCTION, whose function returns a `TrainConfig`."""
    if ".py" in name:
        return recipe(name, "")
    if name not in FLOW_RECIPES:
        raise unknown("recipe", name, FLOW_RECIPES)
    return FLOW_RECIPES[name]()
