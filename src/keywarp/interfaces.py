"""The two halves of a network that works frame by frame.

Legend: N frames together · C channels · (h, w) feature cells · (H, W) pixels
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from keywarp.structures import Detections, Features, Targets, VideoDetections

Module = TypeVar("Module", bound=nn.Module)
Suppression = Callable[[VideoDetections], VideoDetections]


def with_parts(module: Module, **parts: nn.Module) -> Module:
    """The same module with other parts of these names; everything else is shared."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}
    return twin


class FeatureNetwork(nn.Module, ABC):
    """The expensive part: images to features (N_feat of paper 004).

    channels, low_channels: C of the features and of those of the lower layers, of a network with one level.
    architecture: torchvision's name of the network whose weights this one can start from, if there is one.
    """

    channels: int
    low_channels: int
    architecture: str | None = None

    @abstractmethod
    def forward(self, image: Tensor) -> Features:
        """Features L × `[N, C, h, w]` of images `[N, 3, H, W]`, RGB 0…255."""

    def low(self, image: Tensor) -> Features:
        """Features of the lower layers alone, on the same cells (N_l of paper 002)."""
        raise NotImplementedError(f"{type(self).__name__} has no lower layers of its own")

    @property
    def stages(self) -> Sequence[nn.Module]:
        """The parts in order, the stem first; none where the network does not tell them apart."""
        return ()


class TaskHead(nn.Module, ABC):
    """The cheap part: features to results (N_task of paper 004).

    segments: whether it scores the classes of pixels instead of finding boxes.
    """

    segments: bool = False

    @abstractmethod
    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Sequence[Detections] | Tensor:
        """For each of N frames its detections, in pixels of the network's input; or class scores `[N, classes, h, w]`.

        image_sizes: (H, W) of each frame's image without padding; boxes are clipped to it.
        """

    def maps(self, features: Features) -> Sequence[Tensor]:
        """The maps that everything else is read from: the head's share of the convolutions."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its maps")

    def unsuppressed(self) -> tuple[TaskHead, Suppression]:
        """This head without non-maximum suppression (weights shared), and that suppression, of a whole video's boxes.

        What is done to whole videos starts from all boxes. Where a head's suppression cannot be taken out: itself, and
        a function that changes nothing.
        """
        return self, lambda found: found

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        """The training losses by name, to be summed."""
        raise NotImplementedError(f"{type(self).__name__} wraps a trained model and has no training loss")
