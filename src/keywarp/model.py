"""A video model: the parts, and the one function that carries out a step. Read this first.

Legend: N frames together · B clips · T frames of a clip · C channels · (h, w) feature cells · (H, W) pixels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from keywarp.aggregation import Aggregator
from keywarp.alignment.correspondence import Aligner
from keywarp.interfaces import FeatureNetwork, TaskHead
from keywarp.plans import SINGLE, TrainingPlan
from keywarp.scheduling import Scheduler
from keywarp.structures import Features, Frame, Memory, Step, StepOutput, Targets
from keywarp.transform import ImageTransform
from keywarp.updating import Updater

__all__ = ["FeatureNetwork", "TaskHead", "VideoModel"]

Loss = Callable[[StepOutput], dict[str, Tensor]]


class VideoModel(nn.Module):
    """A feature network, a task head and what carries features between frames. Holds weights, no state.

    scheduler: which frames are key frames. transform: from video frames to network input and back. The rest is None
    where a method has no such part:

    aligner: relates a frame to its references; needed where not every frame is a key frame by itself.
    aggregator: joins a key frame with what the key frames before it left, or a window's frames with each other.
    memory_gate: g in aggregated memory = (1 − g)·own + g·joined features: 1 = recursive (THP, PSLA), between =
        Impression Network's gate (003, Eq. 4).
    aggregate_every_frame: non-key frames are joined with the memory too (001, Eq. 7). Then a key frame's own features
        are what is propagated; otherwise the joined ones are.
    align_current: in a window, a frame's own features are carried by the alignment of the frame with itself, as by
        FGFA's authors, instead of taken as they are.
    updater: updates propagated features with the frame's own. transform_net: gives non-key frames cheap features, from
        the lower layers of the feature network (002, section 3.4).
    training: the frames a training clip has, and their steps. losses: what is added to the head's.
    classes: names by label. description: what built it (method and arguments), for headers and weight files.
    """

    def __init__(
        self,
        feature_network: FeatureNetwork,
        head: TaskHead,
        *,
        scheduler: Scheduler,
        transform: ImageTransform,
        aligner: Aligner | None = None,
        aggregator: Aggregator | None = None,
        memory_gate: float = 1.0,
        aggregate_every_frame: bool = False,
        align_current: bool = False,
        updater: Updater | None = None,
        transform_net: nn.Module | None = None,
        training: TrainingPlan = SINGLE,
        losses: Sequence[Loss] = (),
        classes: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.feature_network = feature_network
        self.head = head
        self.aligner = aligner
        self.aggregator = aggregator
        self.memory_gate = memory_gate
        self.aggregate_every_frame = aggregate_every_frame
        self.align_current = align_current
        self.updater = updater
        self.transform_net = transform_net
        self.scheduler = scheduler
        self.transform = transform
        self.training_plan = training
        self.losses = tuple(losses)
        self.classes = tuple(classes)
        self.description = dict(description or {})
        self.half_precision: bool = False  # the predictor runs the networks under bfloat16 autocast

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def uses_codec_motion(self) -> bool:
        """Whether the aligner reads the codec's motion, which a video is then to be opened with."""
        return bool(getattr(self.aligner, "uses_codec_motion", False))

    def run(
        self,
        step: Step,
        current: Frame,
        memories: Mapping[int, Memory],
        accept: Callable[[Tensor | None], int | None] = lambda quality: None,
    ) -> StepOutput:
        """Carry out one step: features for its frames, and a `Memory` if they are key frames.

        current: the step's frames; with `features` when an earlier step computed them. memories: of (at least) the
        step's references, by frame index. accept: how many of the frames stand, once their alignment is known.
        """
        if step.is_key:
            return self._key(step, current, memories)
        assert self.aligner is not None, "a scheduler with non-key frames needs an aligner"
        if current.features is not None:
            return self._window(step, current, memories)
        return self._propagated(step, current, memories, accept)

    def _key(self, step: Step, current: Frame, memories: Mapping[int, Memory]) -> StepOutput:
        """Features of the network, joined with the aggregate of the key frame before."""
        if self.updater is None:
            own, layers = self.feature_network(current.image), None
        else:
            own, layers = self.updater.key_features(self.feature_network, current.image)
        own = self._described(own)
        current = replace(current, features=own)
        joined = aggregated = own
        aligned: tuple[Features, ...] = ()
        if self.aggregator is not None and self.aligner is not None and step.references:
            previous = memories[step.references[0]]
            carried = self.aligner(previous, current).propagate(previous.aggregated)
            aligned = (self._maps(carried),)
            joined = self._described(self.aggregator([carried, own], own))
            g = self.memory_gate
            aggregated = joined if g == 1 else self._described(((1 - g) * own[0] + g * joined[0],))  # 003, Eq. 4
        features = own if self.aggregate_every_frame else joined
        work = None if self.aligner is None else self.aligner.remember(replace(current, features=features))
        memory = Memory(current.image, features, aggregated=aggregated, work=work, layers=layers)
        return StepOutput(self._maps(joined), memory, own=self._maps(own), aligned=aligned)

    def _propagated(
        self,
        step: Step,
        current: Frame,
        memories: Mapping[int, Memory],
        accept: Callable[[Tensor | None], int | None],
    ) -> StepOutput:
        """The key frame's features carried to the frames, updated, and joined with the key frame's aggregate."""
        assert self.aligner is not None
        memory = memories[step.references[0]]
        if self.transform_net is not None:
            current = replace(current, features=self.transform_net(self.feature_network.low(current.image)))
        correspondence = self.aligner(memory, current)
        kept = accept(correspondence.quality)
        if kept is not None:
            current, correspondence = current.first(kept), correspondence.first(kept)
            if not kept:
                return StepOutput((), kept=0)
        propagated, update_mask = correspondence.propagate(memory.features), None
        features = propagated
        if self.updater is not None:
            features, update_mask = self.updater(propagated, current, memory, correspondence, self.feature_network)
        if self.aggregator is not None and self.aggregate_every_frame:
            features = self.aggregator([correspondence.propagate(memory.aggregated), features], features)  # 001, Eq. 7
        return StepOutput(
            self._maps(features),
            quality=correspondence.quality,
            fallback=correspondence.fallback,
            kept=kept,
            own=current.features,
            aligned=(self._maps(propagated),),
            update_mask=update_mask,
        )

    def _window(self, step: Step, current: Frame, memories: Mapping[int, Memory]) -> StepOutput:
        """The features of all references, carried to the frame and joined (FGFA)."""
        assert self.aligner is not None
        assert self.aggregator is not None
        assert current.features is not None
        (i,) = step.frames
        candidates, aligned = [], []
        for j in step.references:
            if j == i and not self.align_current:
                candidates.append(current.features)
                continue
            candidates.append(self.aligner(memories[j], current).propagate(memories[j].features))
            if self.training:
                aligned.append(self._maps(candidates[-1]))
        return StepOutput(
            self.aggregator(candidates, current.features), own=self._maps(current.features), aligned=tuple(aligned)
        )

    def _described(self, features: Features) -> Features:
        return features if self.aggregator is None else self.aggregator.describe(features)

    def _maps(self, features: Features) -> Features:
        """Without what `describe` added."""
        return features if self.aggregator is None else features[:1]

    def forward(self, clip: Tensor, plan: Sequence[Step]) -> StepOutput:
        """The last step's output, after carrying out a fixed plan on clips `[B, T, 3, H, W]` (training).

        Frame t of all B clips goes together; each clip is its own reference. A frame alone is the plan of one key
        step: its features are used as they are, neither warped nor scaled.
        """
        memories: dict[int, Memory] = {}
        for step in plan:
            (t,) = step.frames
            output = self.run(step, frame_of(clip[:, t], memories.get(t)), memories)
            if output.memory is not None:
                memories[t] = output.memory
        return output

    def loss(self, clip: Tensor, plan: Sequence[Step], targets: Targets) -> dict[str, Tensor]:
        """The losses by name for the last frame of the plan; `targets` are that frame's."""
        output = self(clip, plan)
        sizes = [(clip.shape[-2], clip.shape[-1])] * clip.shape[0]
        losses = self.head.loss(output.features, sizes, targets)
        for extra in self.losses:
            losses |= extra(output)
        return losses


def frame_of(image: Tensor, memory: Memory | None, **more: Any) -> Frame:
    """The frames of images `[N, 3, H, W]`, with what an earlier step of theirs left."""
    if memory is None:
        return Frame(image, **more)
    return Frame(image, features=memory.features, work=memory.work, **more)
