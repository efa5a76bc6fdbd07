"""Training samples of flow: pairs cut, scaled, mirrored, recoloured, each a function of the seed and its number alone.

Legend: B pairs of a batch · (H, W) pixels of the crop · 2 images: the current one, then the reference
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from keywarp.data.datasets import Annotation, UnreadableFrameError
from keywarp.data.flow_pairs import FlowPair, FlowPairs
from keywarp.errors import InterruptedWorkError
from keywarp.training.augmentation import augment
from keywarp.training.clips import ATTEMPTS
from keywarp.training.config import TrainConfig


@dataclass(frozen=True)
class FlowSample:
    """images: `[2, 3, H, W]` uint8 RGB. flow: `[2, H, W]` float32, (dx, dy) in pixels from current to reference, NaN
    where it is not known. name, warnings: as of a clip's `Sample`."""

    images: Tensor
    flow: Tensor
    name: str
    warnings: tuple[str, ...] = ()


@dataclass  # not frozen: lightning-fabric rebuilds what it converts
class FlowBatch:
    """images: `[B, 2, 3, H, W]`. flow: `[B, 2, H, W]`."""

    images: Tensor
    flow: Tensor
    names: Sequence[str]
    warnings: Sequence[str]

    def to(self, device: torch.device) -> FlowBatch:
        """The same on another device."""
        images, flow = (t.to(device, non_blocking=True) for t in (self.images, self.flow))
        return replace(self, images=images, flow=flow)


class FlowSamples(Dataset[FlowSample]):
    """Sample n = 0, 1, 2, … of a training run: every pair once before any comes again, in an order drawn from the seed.

    config: its zoom, flip (both ways) and colour, and in `model` the `crop` (H, W).
    """

    def __init__(self, pairs: FlowPairs, config: TrainConfig) -> None:
        self.pairs = pairs
        self.config = config
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def __getitem__(self, n: int) -> FlowSample:
        warnings: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.config.seed, n, attempt])
            index = int(rng.integers(len(self.pairs))) if attempt else self._drawn(n)
            try:
                pair = self.pairs[index]
            except UnreadableFrameError as error:
                warnings.append(f"{error}; another pair is taken")
                continue
            pair = augmented(pair, self.config, rng)
            images = torch.from_numpy(np.stack([pair.current, pair.reference])).permute(0, 3, 1, 2)
            flow = torch.from_numpy(pair.flow).permute(2, 0, 1)
            return FlowSample(images, flow, self.pairs.file(index), tuple(warnings))
        raise InterruptedWorkError(f"{ATTEMPTS} flow pairs in a row are of no use: {warnings[-1]}")

    def _drawn(self, n: int) -> int:
        epoch, place = divmod(n, len(self.pairs))
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, 0, epoch, 1])
            self._order = epoch, rng.permutation(len(self.pairs))
        return int(self._order[1][place])


def augmented(pair: FlowPair, config: TrainConfig, rng: np.random.Generator) -> FlowPair:
    """A random part of the pair, of the crop's size, with its flow changed as the images are."""
    crop = np.array(config.model["crop"])[::-1]  # (width, height)
    size = np.array(pair.flow.shape[1::-1])
    # Never so small that the crop would reach beyond the images.
    scale = max(float(np.exp(rng.uniform(*np.log(config.zoom)))), *(crop / size))
    first = rng.random(2) * (size * scale - crop)
    signs = np.where(rng.random(2) < config.flip, -1.0, 1.0)
    linear = signs * scale
    shift = np.where(signs > 0, -first, first + crop)
    # Of pixel centres, which OpenCV counts from 0.
    matrix = np.column_stack([np.diag(linear), shift + linear / 2 - 0.5])

    def drawn(image: np.ndarray, how: int) -> np.ndarray:
        return cv2.warpAffine(image, matrix, tuple(map(int, crop)), flags=how, borderMode=cv2.BORDER_REPLICATE)

    images = [drawn(image, cv2.INTER_LINEAR) for image in (pair.current, pair.reference)]
    colours = replace(config, flip=0.0, zoom=(1.0, 1.0))
    (current, reference), _ = augment(images, Annotation(), colours, rng)
    # Nearest: a mean over an object's edge is the motion of nothing.
    flow = drawn(pair.flow, cv2.INTER_NEAREST) * linear
    return FlowPair(current, reference, flow.astype(np.float32))


def collate_flow(samples: Sequence[FlowSample]) -> FlowBatch:
    """Samples as one batch."""
    return FlowBatch(
        torch.stack([s.images for s in samples]),
        torch.stack([s.flow for s in samples]),
        [s.name for s in samples],
        [w for s in samples for w in s.warnings],
    )
