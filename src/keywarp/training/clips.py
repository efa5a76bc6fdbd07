"""Training clips: drawn from data sets by a method's training plan, each a function of the seed and its number alone.

Legend: B clips of a group · T frames of a clip · M boxes · (H, W) pixels
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from keywarp.data.datasets import Annotation, UnreadableFrameError, VideoDataset
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.plans import TrainingPlan
from keywarp.structures import Targets
from keywarp.training.augmentation import augment, resized
from keywarp.training.config import TrainConfig
from keywarp.transform import ImageTransform

ATTEMPTS = 20
"""Other clips are drawn in place of an unreadable or empty one; so many in a row are an error."""


@dataclass(frozen=True)
class Sample:
    """One training clip.

    frames: `[T, 3, H, W]` uint8 RGB, the labelled one last; a frame alone where all are the same. target: of the last.
    name: video and frame, for messages. warnings: what could not be read on the way.
    """

    frames: Tensor
    target: Mapping[str, Tensor]
    name: str
    warnings: tuple[str, ...] = ()


@dataclass  # not frozen: lightning-fabric rebuilds what it converts
class Group:
    """Samples that go through the network together.

    clips: `[B, T, 3, H, W]`. targets: of the B last frames.
    """

    clips: Tensor
    targets: Targets

    def to(self, device: torch.device) -> Group:
        """The same on another device."""
        targets = [{k: v.to(device, non_blocking=True) for k, v in t.items()} for t in self.targets]
        return Group(self.clips.to(device, non_blocking=True), targets)


@dataclass
class Batch:
    """What one backward pass is of. Groups: clips of one length and size each. warnings: as of `Sample`."""

    groups: Sequence[Group]
    names: Sequence[str]
    warnings: Sequence[str]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return replace(self, groups=[group.to(device) for group in self.groups])

    def __len__(self) -> int:
        return len(self.names)


class TrainingClips(Dataset[Sample]):
    """Clip n = 0, 1, 2, … of a training run, for as long as it may be.

    Every labelled frame of a data set comes once before any comes again, in an order drawn from the seed. With several
    data sets each has its share of every `sum(ratios)` clips.
    """

    def __init__(
        self, datasets: Sequence[VideoDataset], plan: TrainingPlan, transform: ImageTransform, config: TrainConfig
    ) -> None:
        if config.ratios and len(datasets) > 1 and len(config.ratios) != len(datasets):
            raise UserError(f"ratios must be one a data set, got {len(config.ratios)} for {len(datasets)}")
        self.datasets = datasets
        self.plan = plan
        self.transform = transform
        self.config = config
        self.positions = [_labelled(dataset) for dataset in datasets]
        ratios = config.ratios if len(datasets) > 1 and config.ratios else (1,) * len(datasets)
        self.turns = [d for d, ratio in enumerate(ratios) for _ in range(ratio)]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __getitem__(self, n: int) -> Sample:
        warnings: list[str] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.config.seed, n, attempt])
            d, video, frame = self._draw(n, attempt, rng)
            try:
                sample = self._clip(d, video, frame, n, rng)
            except UnreadableFrameError as error:
                warnings.append(f"{error}; another clip is taken")
                continue
            if sample is not None:
                return replace(sample, warnings=tuple(warnings))
        reason = warnings[-1] if warnings else "frames without objects (skip_empty=False trains on them too)"
        raise InterruptedWorkError(f"{ATTEMPTS} training clips in a row are of no use: {reason}")

    def _draw(self, n: int, attempt: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """Data set, video and labelled frame of clip n."""
        cycle, turn = divmod(n, len(self.turns))
        d = self.turns[turn]
        positions = self.positions[d]
        if attempt:
            video, frame = positions[rng.integers(len(positions))]
            return d, video, frame
        mine = self.turns.count(d)
        epoch, place = divmod(cycle * mine + self.turns[:turn].count(d), len(positions))
        if self._orders.get(d, (-1, None))[0] != epoch:
            order = np.random.default_rng([self.config.seed, d, epoch, 1]).permutation(len(positions))
            self._orders[d] = (epoch, order)
        video, frame = positions[self._orders[d][1][place]]
        return d, video, frame

    def _clip(self, d: int, video_index: int, t: int, n: int, rng: np.random.Generator) -> Sample | None:
        """The clip around a labelled frame; None for a frame without objects that is to be skipped."""
        video = self.datasets[d].videos[int(video_index)]
        t = int(t)
        annotation = video.annotation(t)
        if self.config.skip_empty and annotation.mask is None and not len(annotation.labels):
            return None
        indices = frame_indices(self.plan, t, len(video.frames), rng)
        # The transform is the model's, at this step's size.
        transform = self._transform(n)
        images = video.frames.read(indices)
        frames = [transform(image).permute(1, 2, 0).numpy() for image in images]
        size = frames[-1].shape[:2]
        if any(frame.shape[:2] != size for frame in frames):
            raise UnreadableFrameError(f"{video.frames.source}: frames {min(indices)} to {max(indices)} differ in size")
        target = resized(annotation, size, images[-1].shape[:2])
        frames, target = augment(frames, target, self.config, rng)
        if self.config.skip_empty and target.mask is None and not len(target.labels):
            return None
        stacked = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        return Sample(stacked, _tensors(target), f"{video.name} frame {t}")

    def _transform(self, n: int) -> ImageTransform:
        if not self.config.shorter:
            return self.transform
        step = n // self.config.images_per_step
        shorter = int(np.random.default_rng([self.config.seed, step, 2]).choice(self.config.shorter))
        longer = round(self.transform.longer * shorter / self.transform.shorter)
        return replace(self.transform, shorter=shorter, longer=longer)


def frame_indices(plan: TrainingPlan, t: int, length: int, rng: np.random.Generator) -> list[int]:
    """The frames of a clip whose labelled frame is t, which comes last: drawn by the plan, kept inside the video.

    A still is repeated where the plan says so. Any other clip whose frames are all the same one is that frame alone.
    """
    if length == 1 and plan.repeats_stills:
        return [t] * plan.length
    if plan.distinct and plan.offsets:
        first, last = plan.offsets[0]
        offsets = rng.choice(np.arange(first, last + 1), len(plan.offsets), replace=False)
    else:
        offsets = np.array([rng.integers(first, last + 1) for first, last in plan.offsets], dtype=int)
    indices = [*(int(i) for i in np.clip(t + offsets, 0, length - 1)), t]
    return [t] if len(set(indices)) == 1 else indices


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples grouped by the shape of their clips."""

    def shape(sample: Sample) -> tuple[int, ...]:
        return tuple(sample.frames.shape)

    groups = [
        Group(torch.stack([s.frames for s in members]), [s.target for s in members])
        for members in (list(g) for _, g in groupby(sorted(samples, key=shape), key=shape))
    ]
    return Batch(groups, [s.name for s in samples], [w for s in samples for w in s.warnings])


class Shares:
    """The numbers of the clips that one process takes in each backward pass, for a loader's `batch_sampler`.

    Step s takes clips s·G … (s + 1)·G − 1 of G = images_per_step, in `accumulate` parts; each of `world` processes
    takes its share of each part, the one of rank r the r-th.
    """

    def __init__(self, config: TrainConfig, *, start: int, rank: int = 0, world: int = 1) -> None:
        part, rest = divmod(config.images_per_step, config.accumulate * world)
        if rest:
            raise UserError(
                f"images_per_step must divide by processes × accumulate, got {config.images_per_step} "
                f"for {world} × {config.accumulate}"
            )
        self.first = start * config.images_per_step
        self.stop = config.steps * config.images_per_step
        self.part, self.rank, self.world = part, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for begin in range(self.first, self.stop, self.part * self.world):
            mine = begin + self.rank * self.part
            yield list(range(mine, mine + self.part))

    def __len__(self) -> int:
        return (self.stop - self.first) // (self.part * self.world)


def _labelled(dataset: VideoDataset) -> np.ndarray:
    """`[P, 2]`: video and frame of every labelled frame."""
    parts: Iterable[np.ndarray] = (
        np.stack([np.full(len(video.labelled), v), np.asarray(video.labelled)], axis=1)
        for v, video in enumerate(dataset.videos)
        if len(video.labelled)
    )
    rows = list(parts)
    if not rows:
        raise UserError(f"{dataset.name} has no labelled frame to train on; `keywarp data check` looks it through")
    return np.concatenate(rows)


def _tensors(target: Annotation) -> dict[str, Tensor]:
    tensors = {"boxes": torch.from_numpy(target.boxes), "labels": torch.from_numpy(target.labels)}
    if target.mask is not None:
        tensors["mask"] = torch.from_numpy(target.mask).long()
    return tensors
