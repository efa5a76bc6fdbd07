"""Who takes part in a benchmark: each model on every frame, and with what it takes of flows, intervals and radii."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.errors import UserError, unknown
from keywarp.listing import cost
from keywarp.loading import load, of_torchvision, options_of, rescheduled
from keywarp.methods import FLOWS, METHODS
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import SIGNS, AdaptiveInterval, Scheduler
from keywarp.structures import Detections

PER_FRAME = "rfcn per frame"
"""The baseline of the papers' methods."""


@dataclass
class Candidate:
    """A model that takes part.

    build: makes it from nothing. model: the same, which may share weights with others of its method. count: frames of
    a round. baseline: the same network on every frame. bound: its speed-up by Eq. 7 of 004. rounds: milliseconds a
    frame, total and by part. found: the detections so far, of the rounds.
    """

    name: str
    build: Callable[[], VideoModel]
    model: VideoModel
    count: int
    baseline: str
    bound: float | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)
    running: VideoPredictor | None = None
    found: list[Detections] = field(default_factory=list)

    @property
    def uses_motion(self) -> bool:
        """Whether it reads the codec's motion."""
        return self.model.uses_codec_motion


def candidates(
    methods: Sequence[str],
    flows: Sequence[str],
    intervals: Sequence[int],
    radii: Sequence[int],
    backbone: str,
    device: str,
) -> list[Candidate]:
    """Every model per frame; and each with what it takes of the flows, intervals and radii.

    methods: of the papers, with random weights, on which speed does not depend (save where they decide what is
    computed, as in THP c2 and c3); or names and files as of `load`. A weight file keeps the flow network that it holds,
    and a model that takes none of `flows` its own default.
    """
    for flow in flows:
        if flow not in FLOW_NETWORKS and flow not in FLOWS:
            raise unknown("flow", flow, [*FLOW_NETWORKS, *FLOWS])
    if min(intervals, default=1) < 1 or min(radii, default=1) < 1:
        raise UserError(f"--intervals and --radii must be 1 or more, got {list(intervals)} and {list(radii)}")
    files = [Path(name).name for name in dict.fromkeys(methods) if Path(name).is_file()]
    if len(set(files)) < len(files):
        raise UserError(f"files of different folders must differ in their names to be told apart, got {files}")
    found: dict[str, Candidate] = {}
    for name in dict.fromkeys(methods):
        family = _of_method if name in METHODS else _of_model
        if name in METHODS and PER_FRAME not in found:
            frame = partial(load, "rfcn", weights="random", backbone=backbone, device=device)
            found[PER_FRAME] = Candidate(PER_FRAME, frame, frame(), 2, PER_FRAME)
        for candidate in family(name, flows, intervals, radii, backbone, device):
            found.setdefault(candidate.name, candidate)
    if not found:
        raise UserError("no method to measure; give --methods, e.g. dff or yolox-nano")
    return list(found.values())


def _of_method(
    name: str, flows: Sequence[str], intervals: Sequence[int], radii: Sequence[int], backbone: str, device: str
) -> Iterator[Candidate]:
    """Those of a method of the papers."""
    takes = options_of(name)
    if "detector" in takes:
        raise UserError(f"{name} carries a trained detector: name that one in its place, e.g. yolox-nano")
    build = partial(load, name, weights="random", backbone=backbone, device=device)
    compose = partial(METHODS[name], backbone=backbone)
    with torch.device("meta"):
        scheduler = compose().scheduler
    choices = _choices(takes, scheduler, [flow for flow in flows if flow in FLOW_NETWORKS], intervals, radii)
    yield from _sharing(name, PER_FRAME, build, compose, choices, max(intervals, default=1))


def _of_model(
    name: str, flows: Sequence[str], intervals: Sequence[int], radii: Sequence[int], backbone: str, device: str
) -> Iterator[Candidate]:
    """Those of a wrapped detector or a weight file, after the per-frame one."""
    weights: dict[str, Any] = {"weights": "random"} if of_torchvision(name) else {}  # speed does not depend on them
    build = partial(load, name, device=device, **weights)
    name = Path(name).name if Path(name).is_file() else name
    model, baseline = build(), f"{name} per frame"
    description, takes = model.description, options_of(model.description["method"])
    frame = partial(build, interval=1) if "detector" in takes else partial(build, method="rfcn")
    yield Candidate(baseline, frame, frame(), 2, baseline)
    if "detector" not in takes:
        compose = partial(METHODS[description["method"]], **description["arguments"])
        choices = _choices(takes - {"flow"}, model.scheduler, (), intervals, radii)
        yield from _sharing(name, baseline, build, compose, choices, max(intervals, default=1))
        return
    for options in _choices(takes, model.scheduler, [flow for flow in flows if flow in FLOWS], intervals, radii):
        again = partial(build, **options)
        yield Candidate(_label(name, options), again, again(), options["interval"], baseline)


def _choices(
    takes: set[str], scheduler: Scheduler, flows: Sequence[str], intervals: Sequence[int], radii: Sequence[int]
) -> list[dict[str, Any]]:
    """The options of each candidate of a method that takes these; without flows that fit, its own stays."""
    columns: list[tuple[str, Sequence[Any]]] = []
    if "flow" in takes and flows:
        columns.append(("flow", flows))
    if "radius" in takes:
        columns.append(("radius", radii))
    elif "gamma" in takes and isinstance(scheduler, AdaptiveInterval):
        columns.append(("gamma", [scheduler.gamma]))
    elif "interval" in takes:
        columns.append(("interval", [n for n in intervals if n > 1]))
    names, values = zip(*columns, strict=True) if columns else ((), ())
    return [dict(zip(names, choice, strict=True)) for choice in product(*values)] if columns else []


def _label(name: str, options: Mapping[str, Any]) -> str:
    """Such as "dff flownet-s l=10"."""
    shown = (f"{SIGNS[option]}={value}" if option in SIGNS else value for option, value in options.items())
    return " ".join([name, *shown])


def _sharing(
    name: str,
    baseline: str,
    build: Callable[..., VideoModel],
    compose: Callable[..., VideoModel],
    choices: Sequence[Mapping[str, Any]],
    longest: int,
) -> Iterator[Candidate]:
    """A candidate for each choice of options; those that differ in their key frames alone share the weights.

    build: with weights. compose: the same without, of which only the plan and the cost are asked. longest: frames of a
    round where key frames are adaptive; their share, and a bound, is not known beforehand.
    """
    shared: dict[str | None, VideoModel] = {}
    for options in choices:
        flow, again, bare = options.get("flow"), partial(build, **options), partial(compose, **options)
        if flow not in shared:
            shared[flow] = again()
        model = rescheduled(shared[flow], **options)
        count = 1 if "radius" in options else options.get("interval", longest)
        bound = None if "gamma" in options else cost("", bare).predicted_speedup
        yield Candidate(_label(name, options), again, model, count, baseline, bound)
