"""The values that travel between the parts. None of them is ever mutated.

Legend: N frames together · C channels · (h, w) feature cells · (H, W) pixels · L levels · M boxes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import supervision

Features = tuple[Tensor, ...]
"""L feature maps, each `[N, C, h, w]`: one for the papers' networks, several for a feature pyramid."""

MotionField = np.ndarray
"""`[rows, columns, 2]` float32, (dx, dy): where each cell of a frame lies in the frame shown before; NaN = unknown."""


class MotionChain(NamedTuple):
    """The codec's motion between a frame and its key frame, oldest first.

    fields: of the frames after the key frame up to this one; or, with `backwards`, of the frames after this one up to
    the key frame, which then is the later of the two.
    """

    fields: Sequence[MotionField] = ()
    backwards: bool = False


@dataclass(frozen=True)
class VideoFrame:
    """One frame as a video source hands it out.

    image: `[H, W, 3]` uint8, RGB, upright.
    index: 0-based position among the frames handed out (after `start` and `stride`).
    time: seconds from the start of the video.
    motion: the codec's motion in pixels of this frame, one field for each decoded frame since the one handed out
        before (several when frames were skipped), oldest first; None when it was not asked for.
    file_name: of a picture in a folder of images.
    """

    image: np.ndarray
    index: int = 0
    time: float = 0.0
    motion: tuple[MotionField, ...] | None = None
    file_name: str | None = None


@dataclass(frozen=True)
class Frame:
    """N frames as the networks see them, before any expensive work.

    image: `[N, 3, H, W]`, RGB 0…255 (uint8 or float), resized; each network normalises for itself.
    motion: for each of the N frames its chain of codec motion fields to the key frame, in pixels of `image`; None
        when the source gives none.
    features: the frames' own features where they are known: a key frame's, those of a sliding window, or the cheap
        ones of a transform net. work: what the aligner computed of them before (`Memory.work`).
    """

    image: Tensor
    motion: Sequence[MotionChain] | None = None
    features: Features | None = None
    work: Any = None

    def first(self, count: int) -> Frame:
        """Only the first `count` of the N frames."""
        return Frame(
            self.image[:count],
            None if self.motion is None else self.motion[:count],
            None if self.features is None else tuple(level[:count] for level in self.features),
            self.work,
        )


@dataclass(frozen=True)
class Memory:
    """What a key frame leaves behind for the frames that refer to it.

    image: `[N, 3, H, W]` as in `Frame`. features: what is propagated to other frames. aggregated: what the next key
    frame aggregates, and non-key frames where they are aggregated too (THP's aggregate, the impression feature,
    PSLA's temporal feature). work: what the aligner computed of this frame alone and need not compute again. layers:
    what a partial update reads of the feature network's inner layers.
    """

    image: Tensor
    features: Features
    aggregated: Features = field(default=(), kw_only=True)
    work: Any = field(default=None, kw_only=True)
    layers: Any = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Step:
    """One piece of work, in processing order.

    frames: indices computed together. is_key: they run through the feature network and leave a `Memory` each.
    references: indices of the memories they read. emits: the frames' results are complete after this step (a
    sliding window computes a frame's features long before its result).
    """

    frames: tuple[int, ...]
    is_key: bool
    references: tuple[int, ...] = ()
    emits: bool = True


@dataclass(frozen=True)
class StepOutput:
    """Features for the task head, and what the predictor and the losses need besides.

    memory: of a key step, else None. quality: `[N, 1, h, w]`, how far the alignment can be trusted, if the aligner
    estimates it. fallback: for each of the N frames the share of cells whose codec motion was missing.
    kept: how many of the step's frames the results are of, all unless the quality check refused some.
    For the losses: own, the frames' own features where they are known; aligned, the references' features carried to
    them; update_mask, `[N, 1, h, w]`, 1 where features were computed anew.
    """

    features: Features
    memory: Memory | None = None
    quality: Tensor | None = None
    fallback: tuple[float, ...] = ()
    kept: int | None = None
    own: Features | None = None
    aligned: tuple[Features, ...] = ()
    update_mask: Tensor | None = None


@dataclass(frozen=True)
class Detections:
    """Boxes of one frame.

    boxes: `[M, 4]` xyxy, pixels of the original frame (of the network's input inside the heads).
    scores: `[M]` in 0…1. labels: `[M]` int64, 0-based class indices (no background).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be [M, 4], got {list(self.boxes.shape)}")
        for name in ("scores", "labels"):
            if tuple(getattr(self, name).shape) != (len(self.boxes),):
                got = list(getattr(self, name).shape)
                raise ValueError(f"{name} must be [{len(self.boxes)}] as there are {len(self.boxes)} boxes, got {got}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Detections:
        """The rows that `index` (a mask or positions) selects."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    @staticmethod
    def empty(device: torch.device | str = "cpu") -> Detections:
        """No boxes."""
        return Detections(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
        )

    def cpu(self) -> Detections:
        """The same on the CPU."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    def to_supervision(self, classes: Sequence[str] = ()) -> supervision.Detections:
        """As `supervision.Detections`, with class names in `data["class_name"]` where `classes` is given."""
        import supervision

        labels = self.labels.cpu().numpy()
        data = {"class_name": np.array([classes[i] for i in labels], dtype=str)} if classes else {}
        return supervision.Detections(
            xyxy=self.boxes.float().cpu().numpy(),
            confidence=self.scores.float().cpu().numpy(),
            class_id=labels,
            data=data,
        )


@dataclass(frozen=True)
class VideoDetections:
    """All boxes of one video as columns, by ascending frame: what post-processing and evaluation work on.

    frames: `[M]` 0-based index of each box's frame. boxes: `[M, 4]` xyxy, pixels of the frame. scores: `[M]`. labels:
    `[M]` 0-based class indices. tracks: `[M]` the same number for the same object throughout, −1 for none; or None.
    Arrays of other number types are converted; rows in another order are sorted (stably). Raises ValueError for
    shapes that do not fit, and for frames or labels below 0 and boxes or scores that are not finite.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        kinds = {"frames": np.int32, "boxes": np.float32, "scores": np.float32, "labels": np.int32, "tracks": np.int32}
        columns = {name: np.asarray(getattr(self, name), kind) for name, kind in kinds.items() if name != "tracks"}
        if self.tracks is not None:
            columns["tracks"] = np.asarray(self.tracks, np.int32)
        count = len(columns["frames"])
        for name, column in columns.items():
            wanted = (count, 4) if name == "boxes" else (count,)
            if column.shape != wanted:
                raise ValueError(f"{name} must be {list(wanted)} as there are {count} frames, got {list(column.shape)}")
            if name in ("frames", "labels") and count and column.min() < 0:
                raise ValueError(f"{name} must be at least 0, got {column.min()}")
            if name in ("boxes", "scores") and not np.isfinite(column).all():
                raise ValueError(f"{name} must be finite, got {column[~np.isfinite(column)][0]}")
        if (np.diff(columns["frames"]) < 0).any():
            order = np.argsort(columns["frames"], kind="stable")
            columns = {name: column[order] for name, column in columns.items()}
        for name, column in columns.items():
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: np.ndarray) -> VideoDetections:
        """The rows that `index` (a mask or positions) selects."""
        tracks = None if self.tracks is None else self.tracks[index]
        return VideoDetections(self.frames[index], self.boxes[index], self.scores[index], self.labels[index], tracks)

    @staticmethod
    def of(detections: Sequence[Detections]) -> VideoDetections:
        """From those of each frame, in the frames' order."""
        parts = [d.cpu() for d in detections]
        return VideoDetections(
            np.repeat(np.arange(len(parts)), [len(d) for d in parts]),
            np.concatenate([np.zeros((0, 4), np.float32), *(d.boxes.numpy() for d in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(d.scores.numpy() for d in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(d.labels.numpy() for d in parts)]),
        )

    def by_frame(self, count: int) -> list[Detections]:
        """The detections of each of the frames 0 … count − 1."""
        starts = np.searchsorted(self.frames, np.arange(count + 1))
        boxes, scores, labels = (torch.from_numpy(c) for c in (self.boxes, self.scores, self.labels.astype(np.int64)))
        spans = [slice(a, b) for a, b in pairwise(starts.tolist())]
        return [Detections(boxes[s], scores[s], labels[s]) for s in spans]


@dataclass(frozen=True)
class FrameResult:
    """What came out for one frame of a video.

    index, time: of the `VideoFrame`. is_key: the feature network ran on it. detections: boxes in pixels of the
    original frame, of a detector. segmentation: `[H, W]` uint8 class indices, of a segmentation model. tracks: `[M]`
    the same number for the same object, of a detector whose boxes were linked over time.
    flow_fallback: share of the frame whose codec motion was missing and was estimated instead; None without codec
    motion.
    """

    index: int
    time: float
    is_key: bool
    detections: Detections | None = None
    segmentation: np.ndarray | None = None
    flow_fallback: float | None = None
    classes: Sequence[str] = field(default=(), repr=False)
    tracks: Tensor | None = None

    @property
    def boxes(self) -> Tensor:
        """`[M, 4]` xyxy, pixels of the original frame."""
        assert self.detections is not None, "a segmentation model gives no boxes"
        return self.detections.boxes

    def to_supervision(self) -> supervision.Detections:
        """The detections as `supervision.Detections`, class names included."""
        assert self.detections is not None, "a segmentation model gives no boxes"
        return self.detections.to_supervision(self.classes)


Targets = Sequence[Mapping[str, Tensor]]
"""For each of N frames `boxes` `[M, 4]` xyxy in pixels of the network's input and `labels` `[M]` 0-based; or `mask`
`[H, W]` int64 with 255 where no label is known, for segmentation."""
