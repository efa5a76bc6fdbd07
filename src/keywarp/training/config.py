"""How a model is trained: everything that a recipe decides, in one frozen value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from keywarp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    steps: of the optimiser. images_per_step: labelled frames (clips) a step, over all processes and accumulations.
    rate_per_image: the learning rate is this times images_per_step. drops: steps after which it falls to `fall` of it.
    cosine: falls to zero along a cosine instead. warmup: steps over which the rate rises from `warmup_from` of itself.
    optimiser, momentum, weight_decay: AdamW has no momentum of its own here. Biases and norms are not decayed.
    rates: factors on the rate of parameters by the beginning of their name, the longest fitting one counts; and by
        what they are called anywhere in it, for keys that begin with a dot.
    accumulate: a step's images are computed in so many parts. clip_norm: largest norm of the gradient.
    precision: bfloat16 where it is safe, or 32 bits. ema: decay of a running mean of the weights, which is then what is
    validated and kept; 0 = none.

    frozen_stages: of the backbone, its stem first. frozen_norms: batch norms keep their statistics (as the papers' do).
    model: arguments of the method (backbone, input size …) that come with the recipe.
    ratios: of the data sets, in their order, of 1:1:… where empty. skip_empty: frames without objects are not drawn.
    flip: probability. zoom: range of a random enlargement around a random point. shorter: the shorter side of each
    step's images is drawn from these instead of the model's. colour: strength 0 … 1 of brightness, contrast and
    saturation jitter. degrade: probability of blur, defocus, low light or compression. All are the same for all frames
    of a clip.

    validate_every, save_every: steps. patience: stop after so many validations without a better one; 0 = never.
    seed: of weights, clips and everything random.
    """

    steps: int
    images_per_step: int = 4
    rate_per_image: float = 2.5e-4
    drops: tuple[int, ...] = ()
    fall: float = 0.1
    cosine: bool = False
    warmup: int = 0
    warmup_from: float = 0.1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rates: Mapping[str, float] = field(default_factory=dict)
    accumulate: int = 1
    clip_norm: float | None = None
    precision: Literal["32", "bf16"] = "32"
    ema: float = 0.0
    frozen_stages: int = 2
    frozen_norms: bool = True
    model: Mapping[str, Any] = field(default_factory=dict)
    ratios: tuple[int, ...] = ()
    skip_empty: bool = True
    flip: float = 0.5
    zoom: tuple[float, float] = (1.0, 1.0)
    shorter: tuple[int, ...] = ()
    colour: float = 0.0
    degrade: float = 0.0
    validate_every: int = 5000
    save_every: int = 1000
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {
            "steps": 1,
            "images_per_step": 1,
            "accumulate": 1,
            "validate_every": 1,
            "save_every": 1,
        }.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, got {getattr(self, name)}")
        for name in ("rate_per_image", "warmup", "patience", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise UserError(f"clip_norm must be a number above 0, got {self.clip_norm}")
        for name in ("flip", "degrade", "colour", "ema", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.zoom[0] <= 0 or self.zoom[0] > self.zoom[1]:
            raise UserError(f"zoom must be a range above 0 such as (0.8, 1.25), got {self.zoom}")
        if self.images_per_step % self.accumulate:
            raise UserError(
                f"images_per_step must divide by accumulate, got {self.images_per_step} and {self.accumulate}"
            )

    @property
    def rate(self) -> float:
        """The learning rate before it falls: proportional to the images of a step."""
        return self.rate_per_image * self.images_per_step

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at this step (0 … steps − 1)."""
        rise = 1.0
        if step < self.warmup:
            rise = self.warmup_from + (1 - self.warmup_from) * step / self.warmup
        if self.cosine:
            return rise * (1 + math.cos(math.pi * step / self.steps)) / 2
        return rise * self.fall ** sum(step >= drop for drop in self.drops)

    def share(self, name: str) -> float:
        """The factor on the rate of the parameter of this name, by `rates`."""
        prefix = max((key for key in self.rates if name.startswith(key)), key=len, default="")
        anywhere = (self.rates[key] for key in self.rates if key.startswith(".") and key in name)
        return self.rates.get(prefix, 1.0) * math.prod(anywhere)

    def shortened(self, steps: int) -> TrainConfig:
        """The same course in another number of steps: warm-up and drops at the same shares of it."""
        share = steps / self.steps
        return replace(
            self,
            steps=steps,
            warmup=round(self.warmup * share),
            drops=tuple(round(drop * share) for drop in self.drops),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, for headers and checkpoints."""
        return dict(json.loads(json.dumps(asdict(self))))


FIELDS = {f.name for f in fields(TrainConfig)}
