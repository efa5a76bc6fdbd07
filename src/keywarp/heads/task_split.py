"""Where a network is cut into features and task (004, Table 5): earlier or later than after its last feature layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from keywarp.heads.rfcn import ScoreMaps
from keywarp.interfaces import FeatureNetwork, Suppression, TaskHead, with_parts
from keywarp.structures import Detections, Features, Targets


class FeaturesWithMaps(FeatureNetwork):
    """A feature network whose features are the score maps themselves: nothing learnable is left for the task."""

    def __init__(self, body: FeatureNetwork, score_maps: ScoreMaps) -> None:
        super().__init__()
        self.body = body
        self.score_maps = score_maps
        self.channels = score_maps.channels
        self.low_channels = body.low_channels

    def forward(self, image: Tensor) -> Features:
        return self.score_maps(self.body(image))

    def low(self, image: Tensor) -> Features:
        return self.body.low(image)


class HeadWithTail(TaskHead):
    """A task head that begins with the last layers of the feature network."""

    def __init__(self, tail: nn.Module, head: TaskHead) -> None:
        super().__init__()
        self.tail = tail
        self.head = head
        self.segments = head.segments

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> Sequence[Detections] | Tensor:
        return self.head((self.tail(features[0]),), image_sizes)

    def maps(self, features: Features) -> Sequence[Tensor]:
        return self.head.maps((self.tail(features[0]),))

    def unsuppressed(self) -> tuple[TaskHead, Suppression]:
        head, suppression = self.head.unsuppressed()
        return with_parts(self, head=head), suppression

    def loss(self, features: Features, image_sizes: Sequence[tuple[int, int]], targets: Targets) -> dict[str, Tensor]:
        return self.head.loss((self.tail(features[0]),), image_sizes, targets)
