"""Watches a model while a predictor runs it: what of each frame was aligned, carried, joined and computed anew.

Legend: N frames of a step · C channels · (h, w) feature cells · K candidates
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from keywarp.aggregation import Aggregator
from keywarp.alignment.correspondence import Correspondence
from keywarp.errors import UserError
from keywarp.insight.colours import FeatureColours
from keywarp.model import VideoModel
from keywarp.ops import resize_flow
from keywarp.structures import Features, Memory, Step, StepOutput


@dataclass(frozen=True)
class Observation:
    """What was seen of one frame, on the grid of the features, padding included. What was not there is None or empty.

    frame: its number for the scheduler. references: the frames whose memories it read. whole: the feature network
    computed all of it. computed: the share of cells that it computed. result, key, carried: `[h, w, 3]` uint8, colours
    of the features that the head gets, of the reference's, and of these carried to the frame. reference: the one that
    `key`, `carried` and `flow` are of, in a window the farthest. flow: `[h, w, 2]`, where each cell comes from, as a
    share of the input's width and height away. weights: `[h, w]` by candidate, which sum to one. quality, mask:
    `[h, w]`.
    """

    frame: int
    references: tuple[int, ...]
    whole: bool
    computed: float
    result: np.ndarray
    reference: int | None = None
    key: np.ndarray | None = None
    carried: np.ndarray | None = None
    flow: np.ndarray | None = None
    weights: Mapping[int, np.ndarray] = field(default_factory=dict)
    quality: np.ndarray | None = None
    mask: np.ndarray | None = None


class Observer:
    """A model that is watched while it is open. A context manager; the given model is left as it was.

    model: gives the same results, weights shared; run it with a `VideoPredictor`. level: of the features,
    counted from the finest. kinds: those of `KINDS` that are looked at; weights cost the aggregator's work twice.
    What is kept is bounded by the predictor's latency: `next` takes it off.
    """

    def __init__(self, model: VideoModel, kinds: Collection[str], *, level: int = 0) -> None:
        self.model = copy.copy(model)
        self.model.run = self._run  # type: ignore[method-assign,assignment]
        self._original = model
        self._kinds = kinds
        self._level = level
        self._colours: FeatureColours | None = None
        self._hooks: list[RemovableHandle] = []
        self._alignments: list[tuple[Memory, Correspondence]] = []
        self._joined: list[Tensor] = []  # [K, N, h, w] each
        self._memories: Mapping[int, Memory] | None = None
        self._clip = self._taken_clip = self._taken = 0  # a change of the frames' size starts a clip
        self._seen: dict[tuple[int, int], Observation] = {}

    def __enter__(self) -> Self:
        if self._original.aligner is not None:
            self._hooks.append(self._original.aligner.register_forward_hook(self._see_alignment))
        if "weights" in self._kinds:
            parts = [part for part in self._original.modules() if isinstance(part, Aggregator)]
            self._hooks += [part.register_forward_hook(self._see_weights) for part in parts]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._memories = None

    def next(self) -> Observation:
        """The observation of the frame whose result is out next."""
        if (self._taken_clip, self._taken) not in self._seen:
            self._taken_clip, self._taken = self._taken_clip + 1, 0
        self._taken += 1
        return self._seen.pop((self._taken_clip, self._taken - 1))

    def known(self) -> list[Observation]:
        """Those of the frames behind it that have been worked on already, as far as they are of the same clip."""
        return [seen for (clip, _), seen in self._seen.items() if clip == self._taken_clip]

    def _see_alignment(self, aligner: Any, arguments: tuple[Any, ...], correspondence: Correspondence) -> None:
        self._alignments.append((arguments[0], correspondence))

    def _see_weights(self, aggregator: Any, arguments: tuple[Any, ...], joined: Features) -> None:
        self._joined.append(aggregator.scores(*arguments).softmax(dim=0)[:, :, 0])

    def _run(self, step: Step, current: Any, memories: Mapping[int, Memory], *accept: Any) -> StepOutput:
        """As the model's own."""
        if memories is not self._memories:  # a predictor that starts anew starts with new ones
            self._memories, self._clip = memories, self._clip + 1
        self._alignments, self._joined = [], []
        output = self._original.run(step, current, memories, *accept)
        if step.emits and output.kept != 0:
            whole = step.is_key or current.features is not None  # a window's frames were key steps before
            for seen in self._observed(step, output, memories, whole):
                self._seen[self._clip, seen.frame] = seen
        self._alignments, self._joined = [], []
        return output

    def _observed(
        self, step: Step, output: StepOutput, memories: Mapping[int, Memory], whole: bool
    ) -> Iterator[Observation]:
        level = self._finest(output.features)
        results = output.features[level]  # [N, C, h, w], of the frames that stand
        colours = self._colours = self._colours or FeatureColours(results[0])
        weights = _arrays(self._joined[-1]) if self._joined else np.zeros((0, 0))  # [K, N, h, w]
        reference, key, carried, flow = self._aligned(step, memories, level)
        for n, (frame, result) in enumerate(zip(step.frames, results, strict=False)):
            candidates = step.references if len(weights) == len(step.references) else (*step.references, frame)
            mask = None if output.update_mask is None else _arrays(output.update_mask[n, 0])
            yield Observation(
                frame,
                tuple(j for j in step.references if j != frame) if self._alignments else (),
                whole,
                1.0 if whole else 0.0 if mask is None else float(mask.mean()),
                colours(result),
                reference,
                None if key is None else colours(key[0]),
                None if carried is None else colours(carried[n]),
                None if flow is None else _arrays(flow[n].permute(1, 2, 0)),
                {j: each[n] for j, each in zip(candidates, weights, strict=False)},
                None if output.quality is None else _arrays(output.quality[n, 0]),
                mask,
            )

    def _aligned(
        self, step: Step, memories: Mapping[int, Memory], level: int
    ) -> tuple[int | None, Tensor | None, Tensor | None, Tensor | None]:
        """One reference, its features, these carried to the step's frames, and how far away each cell's come from."""
        aligned = {j: c for j in step.references for memory, c in self._alignments if memory is memories[j]}
        if not aligned:
            return None, None, None, None
        reference = max(aligned, key=lambda j: abs(j - step.frames[0]))
        memory, correspondence = memories[reference], aligned[reference]
        key = (memory.aggregated if step.is_key else memory.features)[level]
        (carried,) = correspondence.propagate((key,))
        h, w = carried.shape[-2:]
        return reference, key, carried, displacement(correspondence, carried) / carried.new_tensor([[[w]], [[h]]])

    def _finest(self, features: Features) -> int:
        """The position of the level that was asked for."""
        count = len(self._original._maps(features))
        if self._level >= count:
            raise UserError(f"--level must be below {count}, the model's number of feature levels, got {self._level}")
        return sorted(range(count), key=lambda n: -features[n].shape[-1])[self._level]


def displacement(correspondence: Correspondence, features: Tensor) -> Tensor:
    """`[N, 2, h, w]`, (dx, dy) in cells of features `[N, C, h, w]`: where the features of each cell come from.

    Of attention, which gathers from many cells, the mean, weighted as they are: it carries a map of their positions.
    """
    h, w = features.shape[-2:]
    flow: Tensor | None = getattr(correspondence, "flow", None)
    if flow is not None:
        return resize_flow(flow.float(), (h, w))
    rows, columns = (torch.arange(float(side), device=features.device) for side in (h, w))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    here = torch.stack([x, y])[None]  # [1, 2, h, w]
    (there,) = correspondence.propagate((here,))
    return there.float() - here


def _arrays(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
