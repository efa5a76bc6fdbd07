"""A video model: the parts, and the one function that carries out a step. Read this first.

Legend: N frames together · B clips · T frames of a clip · C channels · (h, w) feature cells · (H, W) pixels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from keywarp.alignment.correspondence import Aligner
from keywarp.scheduling import Scheduler
from keywarp.structures import Detections, Features, Frame, Memory, Step, StepOutput, Targets
from keywarp.transform import ImageTransform


class FeatureNetwork(nn.Module, ABC):
    """The expensive part: images to features (N_feat of paper 004)."""

    @abstractmethod
    def forward(self, image: Tensor) -> Features:
        """Features L × `[N, C, h, w]` of images `[N, 3, H, W]`, RGB 0…255."""


class TaskHead(nn.Module, ABC):
    """The cheap part: features to results (N_task of paper 004)."""

    @abstractmethod
    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Sequence[Detections] | Tensor:
        """For each of N frames its detections, in pixels of the network's input; or class scores `[N, classes, h, w]`.

        image_sizes: (H, W) of each frame's image without padding; boxes are clipped to it.
        """

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        """The training losses by name, to be summed."""
        raise NotImplementedError(f"{type(self).__name__} wraps a trained model and has no training loss")


class VideoModel(nn.Module):
    """A feature network, a task head and what carries features between frames. Holds weights, no state.

    scheduler: which frames are key frames. aligner: relates a frame to its key frame; None where every frame is a key
    frame. transform: from video frames to network input and back. classes: names by label. description: what built
    it (method and arguments), for headers and weight files.
    """

    def __init__(
        self,
        feature_network: FeatureNetwork,
        head: TaskHead,
        *,
        scheduler: Scheduler,
        transform: ImageTransform,
        aligner: Aligner | None = None,
        classes: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.feature_network = feature_network
        self.head = head
        self.aligner = aligner
        self.scheduler = scheduler
        self.transform = transform
        self.classes = tuple(classes)
        self.description = dict(description or {})
        self.half_precision: bool = False  # the predictor runs the networks under bfloat16 autocast

    def run(self, step: Step, current: Frame, memories: Mapping[int, Memory]) -> StepOutput:
        """Carry out one step: features for its frames, and a `Memory` if they are key frames.

        current: the step's frames. memories: of (at least) the step's references, by frame index.
        """
        if step.is_key:
            features = self.feature_network(current.image)
            work = self.aligner.remember(current) if self.aligner is not None else None
            return StepOutput(features, memory=Memory(current.image, features, work))
        assert self.aligner is not None, "a scheduler with non-key frames needs an aligner"
        (key,) = step.references
        correspondence = self.aligner(memories[key], current)
        return StepOutput(
            correspondence.propagate(memories[key].features),
            quality=correspondence.quality,
            fallback=correspondence.fallback,
        )

    def forward(self, clip: Tensor, plan: Sequence[Step]) -> StepOutput:
        """The last step's output, after carrying out a fixed plan on clips `[B, T, 3, H, W]` (training).

        Frame t of all B clips goes together; each clip is its own reference. A still image is the plan of one key
        step: its features are used as they are, neither warped nor scaled.
        """
        memories: dict[int, Memory] = {}
        for step in plan:
            (t,) = step.frames
            output = self.run(step, Frame(clip[:, t]), memories)
            if output.memory is not None:
                memories[t] = output.memory
        return output

    def loss(self, clip: Tensor, plan: Sequence[Step], targets: Targets) -> dict[str, Tensor]:
        """The losses by name for the last frame of the plan; `targets` are that frame's."""
        features = self(clip, plan).features
        return self.head.loss(features, [(clip.shape[-2], clip.shape[-1])] * clip.shape[0], targets)
